package kube

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"inject/resolver/kubeapi"
	"inject/resolver/secret"
	"inject/resolver/store"
)

const (
	// listPage is the number of Secrets that one call of the API server lists at most.
	listPage = 500
	// listReads is how many Secrets a list reads at a time, to learn their ids.
	listReads = 2
)

// List implements [store.Lister]. Secrets are in the order of the names of their Secrets. A list does not
// read values: the API server notes in the metadata of a Secret which entries its data has. Only a Secret
// whose notes were removed is read. The list fails if a Secret is damaged as far as its metadata shows
// that, and leaves out those whose id Flyte allows and no [secret.Ref] has.
func (s *Store) List(
	ctx context.Context, f store.Filter, limit int, token string,
) (page []store.Info, next string, err error) {
	page, next, err = s.list(ctx, f, limit, token)
	if err != nil {
		return nil, "", fmt.Errorf("list: %w", err)
	}
	return page, next, nil
}

func (s *Store) list(
	ctx context.Context, f store.Filter, limit int, token string,
) (page []store.Info, next string, err error) {
	from, err := parseToken(f, token)
	if err = errors.Join(ctx.Err(), err); err != nil {
		return nil, "", err
	}
	selector, ok := selectorOf(f)
	if !ok {
		return nil, "", nil // no label has this value
	}
	if limit < 1 || limit > listPage {
		limit = listPage
	}
	list, err := s.listMetadata(ctx, metav1.ListOptions{LabelSelector: selector, Limit: int64(limit), Continue: from})
	if err != nil {
		return nil, "", err
	}
	refs, wrong, err := s.refs(ctx, list.Items)
	if err = errors.Join(err, errors.Join(wrong...)); err != nil {
		return nil, "", err
	}
	for i := range list.Items {
		if ref := refs[i]; ref != (secret.Ref{}) && f.Match(ref) {
			page = append(page, infoOf(&list.Items[i].ObjectMeta, ref))
		}
	}
	if list.Continue == "" {
		err = s.stands(ctx)
	}
	return page, newToken(f, list.Continue), err
}

// listMetadata lists Secrets. If the token is so old that the API server has forgotten what was there
// at its time, the list goes on with what is there now: the order is that of the names, so what is
// there all the time is still listed once.
func (s *Store) listMetadata(ctx context.Context, o metav1.ListOptions) (*metav1.PartialObjectMetadataList, error) {
	for {
		list, err := kubeapi.Secrets.ListMetadata(ctx, s.client, s.namespace, o)
		switch from := kubeapi.Continue(err); {
		case from != "" && from != o.Continue:
			o.Continue = from
		case kubeapi.IsTooLong(err) && o.Limit > 1:
			o.Limit /= 2
		default:
			return list, err
		}
	}
}

// refs returns the refs of Secrets, in their order. It is {} for one that no ref has, for one that was
// deleted since it was listed, and for one that is damaged, which has its error in damage.
func (s *Store) refs(
	ctx context.Context, items []metav1.PartialObjectMetadata,
) (refs []secret.Ref, damage []error, err error) {
	refs, damage = make([]secret.Ref, len(items)), make([]error, len(items))
	var reads errgroup.Group
	reads.SetLimit(listReads)
	for i := range items {
		o := &items[i].ObjectMeta
		if id := notedID(o); id != "" {
			refs[i], damage[i] = s.refOf(o, id)
			continue
		}
		reads.Go(func() error {
			var err error
			refs[i], err = s.refByData(ctx, o.Name)
			if errors.Is(err, secret.ErrCorrupt) {
				damage[i] = err
				return nil
			}
			return err
		})
	}
	return refs, damage, reads.Wait()
}

// refByData returns the ref that the data of a Secret names.
func (s *Store) refByData(ctx context.Context, name string) (secret.Ref, error) {
	o, err := kubeapi.Secrets.Get(ctx, s.client, s.namespace, name)
	switch {
	case errors.Is(err, secret.ErrNotFound):
		return secret.Ref{}, nil
	case err != nil:
		return secret.Ref{}, err
	}
	id := soleKey(o)
	if id == "" || nameOf(id) != name {
		return secret.Ref{}, s.damaged(name, []string{"its data is not one entry that its name is the MD5 sum of"})
	}
	return s.refOf(&o.ObjectMeta, id)
}

// refOf returns the ref with the id of a Secret, {} if no task can ask for it.
func (s *Store) refOf(o *metav1.ObjectMeta, id string) (secret.Ref, error) {
	ref, err := secret.ParseID(id)
	if err != nil {
		return secret.Ref{}, nil //nolint:nilerr // Flyte made it, and it is not damaged
	}
	if wrong := checkMeta(o, ref); len(wrong) > 0 {
		return secret.Ref{}, s.damaged(o.Name, wrong)
	}
	return ref, nil
}

// notedID returns the key of an entry of the Secret's data that the Secret's name is the MD5 sum of, as
// the API server notes it for those who apply changes (managedFields), "" if there is no such note.
func notedID(o *metav1.ObjectMeta) string {
	for _, f := range o.ManagedFields {
		for field := range notedEntries(f) {
			if id, ok := strings.CutPrefix(field, "f:"); ok && nameOf(id) == o.Name {
				return id
			}
		}
	}
	return ""
}

// notedEntries returns the entries of a Secret's data that one of its managers has written last, each with
// "f:" before its key.
func notedEntries(f metav1.ManagedFieldsEntry) map[string]json.RawMessage {
	var fields struct {
		Data map[string]json.RawMessage `json:"f:data"`
	}
	if f.FieldsV1 == nil || json.Unmarshal(f.FieldsV1.GetRawBytes(), &fields) != nil {
		return nil
	}
	return fields.Data
}

// soleKey returns the key of the only entry of a Secret, "" if it has none or several.
func soleKey(o *corev1.Secret) string {
	if len(o.Data) != 1 {
		return ""
	}
	for key := range o.Data {
		return key
	}
	return ""
}

// selectorOf returns the label selector for f, and false if no label can have such a value.
func selectorOf(f store.Filter) (string, bool) {
	terms := []string{managedLabel + "=true"}
	for _, t := range []struct{ label, value string }{{domainLabel, f.Domain}, {projectLabel, f.Project}} {
		if len(validation.IsValidLabelValue(t.value)) > 0 {
			return "", false
		}
		if t.value != "" {
			terms = append(terms, t.label+"="+t.value)
		}
	}
	return strings.Join(terms, ","), true
}

// A listToken is the token of a page. It is not signed, because the processes that serve one namespace
// share no key: one who makes up a token chooses where his list begins, and nothing else.
type listToken struct {
	Filter store.Filter // of the list, so that a token cannot go on with another one
	From   string       // the token of the API server
}

var errNotOurToken = fmt.Errorf("%w: the token is not of this list", secret.ErrInvalid)

func newToken(f store.Filter, from string) string {
	if from == "" {
		return ""
	}
	b, _ := json.Marshal(listToken{f, from}) // cannot fail
	return base64.RawURLEncoding.EncodeToString(b)
}

// parseToken returns the token of the API server in a token of a list of f.
func parseToken(f store.Filter, token string) (from string, err error) {
	if token == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return "", errNotOurToken
	}
	var t listToken
	if json.Unmarshal(b, &t) != nil || t.Filter != f || t.From == "" {
		return "", errNotOurToken
	}
	return t.From, nil
}
