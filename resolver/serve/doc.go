// Package serve answers requests over any store: Flyte's management of secrets, and the
// resolving of declared lists for tasks. Package identity finds out who the caller is, and
// package policy what the caller may do; claims in the request itself are never trusted. It
// is HTTP handlers: the port is package transport's, and flags, files and processes are
// cmd/injectd's.
//
// Every request passes the same steps, from the outside in:
//
//	identify    who is the caller, and not over its rate?        (http.go)
//	authorise   ask the policy whether it may do that there      (guard.go)
//	audit       write the decision; without a line, no answer    (audit.go)
//	single-flight, backend                                       (package flight, any store)
//
// A caller who may not list a scope cannot tell a denied secret from an absent one there,
// neither by the answer nor by its time: a name that no secret has is looked up instead.
//
// The package is over 1500 lines because all of this is one decision with one audit line;
// a part that had a package of its own could be called without it.
package serve
