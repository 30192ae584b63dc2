// Package kube authenticates the pods of a cluster, by the token that kubelet mounts into them.
//
// A token says which pod it is for, and the API server whether it is genuine. That is no identity yet:
// all tasks of all projects may share a namespace, where labels can be written by each user who may
// create a pod. What a pod may have is therefore taken from the TaskAction of Flyte that owns it, or else
// from its own labels and annotations, and only while the admission policies vouch for both: they let
// nobody write them who may not claim the scope that they say (docs/reference/admission.md). A pod that a
// task's pod has made gets what its maker may have.
//
// The order of an authentication, which bounds what a stranger can cause:
//
//  1. look: the shape of the token, what it says of itself. Most that is sent here ends here, without a
//     call of the API ([look]).
//  2. a place among those that are checked at the same time ([gate]).
//  3. a TokenReview, and a GET of the pod, at once ([Authenticator.verify]).
//  4. the owners of the pod and the pods whose secrets it inherits ([Authenticator.taskOf]).
//  5. the policies, read after all of these, so that they tell of everything that was seen
//     ([evidence.Reader.Fresh]).
//
// There is no cache of identities: a pod asks once.
package kube
