// Package secret holds the words of the system: where a secret lives ([Scope],
// [Ref]), how a task asks for one ([Declaration]), the bytes themselves
// ([Value]) and what may go wrong ([Error] and the sentinels).
//
// It imports the standard library only and does nothing: it opens no file,
// knows no store and starts no process. Everything else imports it.
package secret
