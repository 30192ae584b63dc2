// Package serve is the server's end of the wire: Flyte's management of secrets and
// our own resolving, over any store. Who is calling it asks its authenticators
// (identity), what they may its policy (policy); it never believes what a request
// says of itself. It is HTTP handlers over one port's listener: processes, flags and
// files are the main's.
//
// Every request goes the same way, from the outside in:
//
//	identify    who is calling, at which rate                    (http.go)
//	audit       one line for the decision; no line, no answer    (audit.go)
//	authorise   may they do that, there                          (guard.go)
//	single-flight, backend                                       (package flight, any store)
//
// To who may not list a scope, what is denied there looks like what is absent, in
// text and in time: the answer is that for a name that nothing has, and it is looked
// up, too.
package serve
