// Package certs makes the certificates of the servers in a cluster, publishes the certificates of
// their authority, and renews both. Everything is in objects of Kubernetes:
//
//	Secret injectd-tls          the authority, and the certificate of injectd
//	Secret inject-webhook-tls   the certificate of the webhook
//	ConfigMap inject-ca         in each task namespace: what pods trust, in ca.crt
//	caBundle                    of the webhooks of the MutatingWebhookConfiguration inject-webhook
//	Secret inject-pull          in each task namespace: the credentials of registries for all pods
//
// Every replica of injectd does the same, without a leader and without a Lease: it reads an object, and
// where something is missing, due or changed, it writes the object with the resource version that it has
// read. Of replicas that write at the same time one succeeds, and the others read again ([Keeper]).
//
// A new authority is published before it signs: clients read what they trust when they start, and kubelet
// takes its time. It also has a second certificate, signed by the authority before it, which the servers
// send along. So a client that knows only the earlier authority accepts the new certificates, until that
// one ends.
package certs
