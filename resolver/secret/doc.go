// Package secret holds the words of the system: where a secret lives ([Scope],
// [Ref]), how a task asks for one ([Declaration]), the bytes themselves
// ([Value]) and how an operation fails ([Error], the sentinels and [Kind]).
//
// It imports the standard library only and has no effects: it opens no file,
// knows no store and starts no process. Every other package may import it.
package secret
