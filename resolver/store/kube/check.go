package kube

import (
	"context"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"

	"inject/resolver/kubeapi"
)

// Missing returns those of verbs, such as get, that this user may not perform on the Secrets of the
// namespace, as the API server says.
func (s *Store) Missing(ctx context.Context, verbs ...string) (missing []string, err error) {
	for _, verb := range verbs {
		review, err := kubeapi.SelfSubjectAccessReviews.Create(ctx, s.client, "", "",
			&authorizationv1.SelfSubjectAccessReview{
				Spec: authorizationv1.SelfSubjectAccessReviewSpec{
					ResourceAttributes: &authorizationv1.ResourceAttributes{
						Namespace: s.namespace, Verb: verb, Resource: "secrets",
					},
				},
			})
		if err != nil {
			return nil, err
		}
		if !review.Status.Allowed {
			missing = append(missing, verb)
		}
	}
	return missing, nil
}

// Server returns the version of the API server, and how far its clock is ahead of ours: see
// [kubeapi.Client.Skew].
func (s *Store) Server(ctx context.Context) (version string, ahead time.Duration, err error) {
	version, err = s.client.Version(ctx)
	return version, s.client.Skew(), err
}

// Namespace returns the namespace, and who reads it, for messages.
func (s *Store) Namespace() (name, who string) { return s.namespace, s.who }
