// Package kubeapi calls the API server of a Kubernetes cluster: a few verbs on a few kinds of
// objects. It is the one package that imports client-go, of which it uses the REST client and not
// the typed clients: those would add 33 MB to the server in place of 10, and 18 MB of memory in
// place of 6.
//
// [Find] reads how a cluster is reached and [Cluster.Connect] returns a [Client], which has its own
// connections and its own bound of calls under way, so that one use of the API does not starve
// another. A [Kind] such as [Secrets] has the verbs.
//
// Every call has a deadline. An error wraps one of the sentinels of package resolver/secret, so
// that a store can return it as it is:
//
//   - [secret.ErrNotFound] only if the API server itself says that this object is not there. Other
//     answers with the status 404, such as that of a proxy or of a namespace that does not exist,
//     are [secret.ErrUnavailable].
//   - [secret.ErrExists] for an object that exists, and [ErrConflict] for one that was changed or
//     replaced meanwhile.
//   - [secret.ErrDenied] if this user may not perform the call, or is not known.
//   - [secret.ErrQuota] if a ResourceQuota of the namespace refuses it.
//   - [secret.ErrInvalid] if the API server can never accept it.
//   - [secret.ErrUnavailable] for all else. A change may have been made then.
package kubeapi
