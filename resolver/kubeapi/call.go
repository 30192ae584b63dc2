package kubeapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"inject/resolver/secret"
)

const (
	// maxCall is how long a call may take, with the waits that the server asks for.
	maxCall = 10 * time.Second
	// maxBody is the length in bytes of the longest answer that is read. An object is at most 1.5 MiB
	// in etcd, and a third more as JSON.
	maxBody = 4 << 20
)

// A call is one call of the API, for its errors.
type call struct {
	verb            string // as roles name it
	resource        resource
	namespace, name string
}

// Get returns the object at a name. namespace is "" for kinds that are not in namespaces.
func (k Kind[T, L]) Get(ctx context.Context, c *Client, namespace, name string) (T, error) {
	return do[T](ctx, c, k.call("get", namespace, name), func(r *rest.RESTClient) *rest.Request { return r.Get() })
}

// List returns the objects that o selects.
func (k Kind[T, L]) List(ctx context.Context, c *Client, namespace string, o metav1.ListOptions) (L, error) {
	return do[L](ctx, c, k.call("list", namespace, ""), func(r *rest.RESTClient) *rest.Request {
		q := r.Get().VersionedParams(&o, parameters)
		if _, ok := any(*new(L)).(interface{ asJSON() }); ok {
			q.SetHeader("Accept", "application/json")
		}
		return q
	})
}

// ListMetadata is List without all that is not metadata.
func (k Kind[T, L]) ListMetadata(
	ctx context.Context, c *Client, namespace string, o metav1.ListOptions,
) (*metav1.PartialObjectMetadataList, error) {
	const as = ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
	return do[*metav1.PartialObjectMetadataList](ctx, c, k.call("list", namespace, ""),
		func(r *rest.RESTClient) *rest.Request {
			return r.Get().VersionedParams(&o, parameters).
				SetHeader("Accept", "application/vnd.kubernetes.protobuf"+as+",application/json"+as)
		})
}

// Owner returns the metadata of the object of any kind that a reference names, in a namespace. Its
// resource is guessed from its kind, as those of all operators can be.
func Owner(
	ctx context.Context, c *Client, namespace string, ref *metav1.OwnerReference,
) (*metav1.PartialObjectMetadata, error) {
	group, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil || group.Version == "" || ref.Kind == "" || ref.Name == "" {
		return nil, fmt.Errorf("%w: the owner is no object's reference", secret.ErrInvalid)
	}
	plural, _ := meta.UnsafeGuessKindToResource(group.WithKind(ref.Kind))
	what := call{"get", resource{group, plural.Resource}, namespace, ref.Name}
	path := []string{"/apis", group.Group, group.Version, "namespaces", namespace, plural.Resource, ref.Name}
	if group.Group == "" {
		path = append([]string{"/api"}, path[2:]...)
	}
	for _, part := range path[1:] {
		if reasons := rest.IsValidPathSegmentName(part); reasons != nil {
			return nil, fmt.Errorf("%w: the owner is no object's reference", secret.ErrInvalid)
		}
	}
	// One client does for all groups: the groups that objects name may be without end.
	const as = ";as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	return try[*metav1.PartialObjectMetadata](ctx, c, corev1.SchemeGroupVersion, what,
		func(r *rest.RESTClient) *rest.Request {
			return r.Get().AbsPath(path...).
				SetHeader("Accept", "application/vnd.kubernetes.protobuf"+as+",application/json"+as)
		})
}

// Create creates an object and returns it as the server has it.
func (k Kind[T, L]) Create(ctx context.Context, c *Client, namespace, name string, object T) (T, error) {
	call := k.call("create", namespace, name)
	return do[T](ctx, c, call, func(r *rest.RESTClient) *rest.Request { return r.Post().Body(object) })
}

// Update replaces an object, and returns it as the server has it. If the object has a resource
// version and there is another one by now, the error wraps [ErrConflict].
func (k Kind[T, L]) Update(ctx context.Context, c *Client, namespace, name string, object T) (T, error) {
	call := k.call("update", namespace, name)
	return do[T](ctx, c, call, func(r *rest.RESTClient) *rest.Request { return r.Put().Body(object) })
}

// Patch changes the fields of an object that patch has, and returns the object as the server has it. patch
// is a strategic merge patch in JSON, which names the items of most lists by their names. If it has the
// object's resource version (metadata.resourceVersion) and there is another one by now, the error wraps
// [ErrConflict]. Unlike [Kind.Update] it keeps fields that this program does not know.
func (k Kind[T, L]) Patch(ctx context.Context, c *Client, namespace, name string, patch []byte) (T, error) {
	return do[T](ctx, c, k.call("patch", namespace, name), func(r *rest.RESTClient) *rest.Request {
		return r.Patch(types.StrategicMergePatchType).Body(patch)
	})
}

// Delete deletes an object if it is the one of p; otherwise the error wraps [ErrConflict]. An object
// with finalizers stays until those who set them have removed them: gone is false then.
func (k Kind[T, L]) Delete(
	ctx context.Context, c *Client, namespace, name string, p metav1.Preconditions,
) (gone bool, err error) {
	o := &metav1.DeleteOptions{Preconditions: &p}
	out, err := do[runtime.Object](ctx, c, k.call("delete", namespace, name),
		func(r *rest.RESTClient) *rest.Request { return r.Delete().Body(o) })
	if err != nil {
		return false, err
	}
	// The answer is a Status, or the object if it is still there.
	_, gone = out.(*metav1.Status)
	return gone, nil
}

func (k Kind[T, L]) call(verb, namespace, name string) call {
	return call{verb, resource{k.group, k.resource}, namespace, name}
}

// do performs a call of a kind's resource.
func do[T runtime.Object](
	ctx context.Context, c *Client, what call, request func(*rest.RESTClient) *rest.Request,
) (answer T, err error) {
	return try[T](ctx, c, what.resource.group, what, func(r *rest.RESTClient) *rest.Request {
		q := request(r).Resource(what.resource.name).NamespaceIfScoped(what.namespace, what.namespace != "")
		if what.name != "" && what.verb != "create" {
			q = q.Name(what.name)
		}
		return q
	})
}

// try performs a call, again as long as the server asks to come back later, and returns its answer.
// group is that of the client which makes the request.
func try[T runtime.Object](
	ctx context.Context, c *Client, group schema.GroupVersion, what call,
	request func(*rest.RESTClient) *rest.Request,
) (answer T, err error) {
	r, err := c.group(group)
	if err != nil {
		return answer, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.callTime, errSlow)
	defer cancel()
	leave, err := c.enter(ctx)
	if err != nil {
		return answer, c.failed(ctx, what, err)
	}
	defer leave()

	for {
		out, err := request(r).MaxRetries(0).Do(ctx).Get()
		if err == nil {
			answer, ok := out.(T)
			if !ok {
				return answer, c.failed(ctx, what, errOtherKind)
			}
			return answer, nil
		}
		if wait, ok := comeBack(what, err); !ok || !pause(ctx, wait) {
			return answer, c.failed(ctx, what, err)
		}
	}
}

var (
	errSlow      = errors.New("no answer in time")
	errOtherKind = errors.New("the answer is an object of another kind")
	errLong      = fmt.Errorf("the answer is over %d bytes", maxBody)
)

// comeBack returns how long the server asks to wait before the same call. A refused change is
// repeated only if the server says that it did not begin it.
func comeBack(what call, err error) (time.Duration, bool) {
	seconds, asked := apierrors.SuggestsClientDelay(err)
	reads := what.verb == "get" || what.verb == "list"
	if !apierrors.IsTooManyRequests(err) && (!asked || !reads) {
		return 0, false
	}
	wait := time.Duration(max(seconds, 1)) * time.Second
	// Those who were refused together should not come back together.
	return wait + rand.N(wait/4), true //nolint:gosec // no secret
}

// pause waits, unless ctx would end before.
func pause(ctx context.Context, wait time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) < wait {
		return false
	}
	select {
	case <-time.After(wait):
		return true
	case <-ctx.Done():
		return false
	}
}

// credentialed ends a call when its context ends. client-go runs the program that a kubeconfig names for its
// credentials as part of a call, and waits for it without an end (k8s.io/client-go,
// plugin/pkg/client/auth/exec).
type credentialed struct {
	next    http.RoundTripper
	program string
	slots   chan struct{} // one for each call that has not ended, although its caller may have given it up
}

// RoundTrip implements [http.RoundTripper].
func (c *credentialed) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	type result struct {
		resp *http.Response
		err  error
	}
	done := make(chan result)
	select {
	case c.slots <- struct{}{}:
		go func() {
			defer func() { <-c.slots }()
			resp, err := c.next.RoundTrip(r) //nolint:bodyclose // the caller does, or it is closed below
			select {
			case done <- result{resp, err}:
			case <-ctx.Done():
				if err == nil {
					_ = resp.Body.Close()
				}
			}
		}()
	case <-ctx.Done():
	}
	select {
	case got := <-done:
		return got.resp, got.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w (from the API server, or from %s, the program of the kubeconfig for credentials)",
			context.Cause(ctx), c.program)
	}
}

// WrappedRoundTripper is how client-go finds the connections.
func (c *credentialed) WrappedRoundTripper() http.RoundTripper { return c.next }

// limited bounds the length of answers, and notes the time that they tell.
type limited struct {
	next  http.RoundTripper
	clock *clock
}

// RoundTrip implements [http.RoundTripper].
func (l limited) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	resp, err := l.next.RoundTrip(r)
	if err == nil {
		l.clock.note(began, resp.Header.Get("Date"))
	}
	if err == nil && resp.Body != nil {
		resp.Body = &limitedBody{resp.Body, maxBody}
	}
	return resp, err
}

// WrappedRoundTripper is how client-go finds the connections.
func (l limited) WrappedRoundTripper() http.RoundTripper { return l.next }

type limitedBody struct {
	io.ReadCloser

	left int
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errLong
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, errLong
	}
	return n, err
}

// IsTooLong reports whether a call failed because its answer was too long: a list needs a smaller
// limit.
func IsTooLong(err error) bool { return errors.Is(err, errLong) }

// Continue returns the token with which an expired list goes on, although what follows is of another
// time than what came before. It is "" if err is no such error.
func Continue(err error) string {
	var status apierrors.APIStatus
	if apierrors.IsResourceExpired(err) && errors.As(err, &status) {
		return status.Status().Continue
	}
	return ""
}
