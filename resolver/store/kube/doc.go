// Package kube is the store in a namespace of Kubernetes: each secret is a Secret, as the
// SecretService of Flyte 2.0.43 writes and reads them, so that both work on the same objects. One
// with the id u__org__O__domain__D__project__P__key__K ([secret.Ref.ID]) has
//
//	name          the MD5 sum of the id, in hexadecimal
//	data          one entry: the id, with the value
//	type          Opaque
//	labels        app.flyte.org/managed=true; app.flyte.org/domain and app.flyte.org/project,
//	              where the scope has them
//	annotations   inject.flyte.org/type and updated, which are not Flyte's: it keeps them, and its
//	              own Secrets do not have them
//
// (flyteorg/flyte secret/service/secret_service.go, and utils.go and k8s_utils.go in
// flyteplugins/go/tasks/pluginmachinery/secret.) A Secret that Flyte wrote has the type
// [store.Regular], whatever is in it, because Flyte does not store the type.
//
// The id must be the key of an entry of a Secret, and domain and project values of labels. Secrets
// for which they are not cannot be created: see [Store.Create].
//
// A Secret of this name that is not so is damaged ([secret.ErrCorrupt]) and not absent, because a
// task must not get a wider scope's value in place of it. Only if the API server says that there is
// no Secret of this name, the secret is absent.
//
// A secret of type [store.ImagePull] is stored a second time, as the Secret that kubelet and Flyte
// take credentials of registries from: see pull.go.
//
// Kubernetes has no transactions, so the store is not a [store.Importer].
package kube
