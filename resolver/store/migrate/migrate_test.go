package migrate_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"inject/resolver/secret"
	"inject/resolver/store"
	"inject/resolver/store/migrate"
	"inject/resolver/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// plain is a store that imports nothing.
type plain struct{ store.Store }

// Create is that of a store that must not get new secrets of such names.
func (p plain) Create(ctx context.Context, r secret.Ref, v secret.Value, typ store.Type) error {
	if err := store.Creatable(r, v); err != nil {
		return &secret.Error{Op: "create", Ref: r, Err: err}
	}
	return p.Store.Create(ctx, r, v, typ)
}

// targets are the two kinds of stores that can be changed.
var targets = map[string]func() store.Store{
	"importer":   storetest.Memory,
	"one by one": func() store.Store { return plain{storetest.Memory()} },
}

func ref(key string) secret.Ref { return secret.Ref{Scope: storetest.Scopes[0], Key: key} }

// put stores a secret, and returns its value.
func put(t *testing.T, s store.Store, r secret.Ref, typ store.Type) []byte {
	t.Helper()
	b := storetest.Value(t, 30)
	require.NoError(t, s.Create(t.Context(), r, secret.NewValue(bytes.Clone(b)), typ))
	return b
}

// results are those of a migration, by the ref of the secret.
type results struct {
	by     map[secret.Ref]migrate.Result
	nobody []error // of results without a name
	err    error
}

// of returns the refs whose result has a state, in order.
func (r *results) of(s migrate.State) (refs []string) {
	for ref, result := range r.by {
		if result.State == s {
			refs = append(refs, ref.Key)
		}
	}
	slices.Sort(refs)
	return refs
}

func (r *results) add(result migrate.Result) error {
	if result.State == migrate.Lost {
		r.nobody = append(r.nobody, result.Err)
		return nil
	}
	if r.by == nil {
		r.by = map[secret.Ref]migrate.Result{}
	}
	if _, twice := r.by[result.Ref]; twice {
		return fmt.Errorf("%v is reported twice", result.Ref)
	}
	r.by[result.Ref] = result
	return nil
}

func runCopy(t *testing.T, from migrate.Reader, to store.Store, o migrate.Options) *results {
	t.Helper()
	r := &results{}
	o.Report = r.add
	r.err = migrate.Copy(t.Context(), from, to, o)
	return r
}

func runDelete(t *testing.T, from store.Store, to migrate.Reader, o migrate.Options) *results {
	t.Helper()
	r := &results{}
	o.Report = r.add
	r.err = migrate.DeleteEqual(t.Context(), from, to, o)
	return r
}

// content returns everything in a store.
func content(t *testing.T, s migrate.Reader) map[secret.Ref]string {
	t.Helper()
	all := map[secret.Ref]string{}
	for info, err := range store.All(t.Context(), s, store.Filter{}) {
		require.NoError(t, err)
		v, _, err := s.Get(t.Context(), info.Ref)
		require.NoError(t, err)
		all[info.Ref] = fmt.Sprintf("%v %x", info.Type, sha256.Sum256(v.Reveal()))
	}
	return all
}

// untouchable is a store that must not be changed.
type untouchable struct {
	store.Store

	t *testing.T
}

func (u untouchable) Create(context.Context, secret.Ref, secret.Value, store.Type) error {
	u.t.Error("create")
	return nil
}

func (u untouchable) Update(context.Context, secret.Ref, secret.Value) error {
	u.t.Error("update")
	return nil
}

func (u untouchable) Delete(context.Context, secret.Ref) error {
	u.t.Error("delete")
	return nil
}

// Every secret is copied to the byte, with its type; a second run finds all equal and changes
// nothing.
func TestCopy(t *testing.T) {
	t.Parallel()
	for name, target := range targets {
		t.Run(name, func(t *testing.T) {
			from, to := storetest.Memory(), target()
			for _, scope := range storetest.Scopes {
				for key, b := range storetest.Values(t) {
					at, typ := secret.Ref{Scope: scope, Key: key}, store.Type(len(b)%2)
					require.NoError(t, from.Create(t.Context(), at, secret.NewValue(b), typ))
				}
			}
			for i := range 3000 {
				put(t, from, ref(fmt.Sprintf("many%d", i)), store.Regular)
			}
			want := content(t, from)

			r := runCopy(t, untouchable{from, t}, untouchable{to, t}, migrate.Options{DryRun: true})
			require.NoError(t, r.err)
			require.Len(t, r.of(migrate.Created), len(want))
			require.Empty(t, content(t, to))

			r = runCopy(t, untouchable{from, t}, to, migrate.Options{})
			require.NoError(t, r.err)
			require.Len(t, r.of(migrate.Created), len(want))
			require.Equal(t, want, content(t, to))
			if name == "importer" {
				for ref := range want {
					a, err := from.Describe(t.Context(), ref)
					require.NoError(t, err)
					b, err := to.Describe(t.Context(), ref)
					require.NoError(t, err)
					require.Equal(t, a, b, "the times are kept")
				}
			}

			r = runCopy(t, untouchable{from, t}, untouchable{to, t}, migrate.Options{Overwrite: migrate.All})
			require.NoError(t, r.err)
			require.Len(t, r.of(migrate.Equal), len(want))
		})
	}
}

// What differs is kept unless the options say otherwise, and a type is never changed.
func TestDiffers(t *testing.T) {
	t.Parallel()
	for name, target := range targets {
		t.Run(name, func(t *testing.T) {
			from, to := storetest.Memory(), target()
			put(t, from, ref("older"), store.Regular) // in the source
			put(t, from, ref("newer"), store.Regular)
			put(t, from, ref("type"), store.ImagePull)
			put(t, from, ref("absent"), store.Regular)
			kept := map[string][]byte{}
			for _, key := range []string{"older", "newer", "type", "other"} {
				kept[key] = put(t, to, ref(key), store.Regular)
			}
			newer := storetest.Value(t, 10)
			require.NoError(t, from.Update(t.Context(), ref("newer"), secret.NewValue(newer)))
			require.NoError(t, to.Update(t.Context(), ref("older"), secret.NewValue(kept["older"])))
			has := func(key string, want []byte) {
				t.Helper()
				v, _, err := to.Get(t.Context(), ref(key))
				require.NoError(t, err)
				require.True(t, v.Equal(secret.NewValue(want)), key)
			}
			source := content(t, from)

			r := runCopy(t, from, to, migrate.Options{})
			require.NoError(t, r.err)
			require.Equal(t, []string{"absent"}, r.of(migrate.Created))
			require.Equal(t, []string{"newer", "older", "type"}, r.of(migrate.Differs))
			require.EqualError(t, r.by[ref("newer")].Err, "the source's value is newer")
			require.EqualError(t, r.by[ref("older")].Err, "the target's value is newer")
			require.EqualError(t, r.by[ref("type")].Err,
				"the source's is of type image_pull, and the target's of type regular")
			for key, b := range kept {
				has(key, b)
			}

			r = runCopy(t, from, untouchable{to, t}, migrate.Options{Overwrite: migrate.Older, DryRun: true})
			require.Equal(t, []string{"newer"}, r.of(migrate.Updated))
			r = runCopy(t, from, to, migrate.Options{Overwrite: migrate.Older})
			require.NoError(t, r.err)
			require.Equal(t, []string{"newer"}, r.of(migrate.Updated))
			require.Equal(t, []string{"older", "type"}, r.of(migrate.Differs))
			has("newer", newer)
			has("older", kept["older"])
			r = runCopy(t, from, to, migrate.Options{Overwrite: migrate.Older})
			require.Empty(t, r.of(migrate.Updated), "the target's is of now")

			r = runCopy(t, from, to, migrate.Options{Overwrite: migrate.All})
			require.NoError(t, r.err)
			require.Equal(t, []string{"older"}, r.of(migrate.Updated))
			require.Equal(t, []string{"type"}, r.of(migrate.Differs))
			has("type", kept["type"])
			has("other", kept["other"])
			require.Equal(t, source, content(t, from), "the source is never changed")
		})
	}
}

// faulty is a store in which operations fail as its functions say.
type faulty struct {
	store.Store

	get    func(secret.Ref) error
	create func(secret.Ref) error
	wrong  func(secret.Ref) bool // another value is stored
}

func (f *faulty) Get(ctx context.Context, r secret.Ref) (secret.Value, store.Info, error) {
	if f.get != nil {
		if err := f.get(r); err != nil {
			return secret.Value{}, store.Info{}, &secret.Error{Op: "get", Ref: r, Err: err}
		}
	}
	return f.Store.Get(ctx, r)
}

func (f *faulty) Create(ctx context.Context, r secret.Ref, v secret.Value, typ store.Type) error {
	if f.create != nil {
		if err := f.create(r); err != nil {
			return &secret.Error{Op: "create", Ref: r, Err: err}
		}
	}
	if f.wrong != nil && f.wrong(r) {
		v = secret.NewValue([]byte("another"))
	}
	return f.Store.Create(ctx, r, v, typ)
}

// Holds is that of a store that cannot hold some names.
func (*faulty) Holds(n store.New) error {
	if n.Ref.Key == "unlabelled" {
		return fmt.Errorf("%w: no label has such a name", secret.ErrInvalid)
	}
	return store.Writable(n.Ref, n.Value)
}

func (f *faulty) CreateCopy(ctx context.Context, n store.New) error {
	return f.Create(ctx, n.Ref, n.Value, n.Type)
}

// A secret that fails is named, and all others are copied.
func TestFailures(t *testing.T) {
	t.Parallel()
	memory, to := storetest.Memory(), storetest.Memory()
	keys := []string{"damaged", "gone", "unlabelled", "refused", "full", "taken", "wrong", "unreadable"}
	for _, key := range keys {
		put(t, memory, ref(key), store.Regular)
	}
	for i := range 100 {
		put(t, memory, ref(fmt.Sprintf("fine%d", i)), store.Regular)
	}
	from := &faulty{Store: memory, get: func(r secret.Ref) error {
		return map[string]error{"damaged": secret.ErrCorrupt, "gone": secret.ErrNotFound}[r.Key]
	}}
	target := &faulty{
		Store: plain{to},
		get: func(r secret.Ref) error {
			return map[string]error{"unreadable": secret.ErrDenied}[r.Key]
		},
		create: func(r secret.Ref) error {
			return map[string]error{
				"refused": secret.ErrInvalid, "full": secret.ErrQuota, "taken": secret.ErrExists,
			}[r.Key]
		},
		wrong: func(r secret.Ref) bool { return r.Key == "wrong" },
	}
	r := runCopy(t, from, target, migrate.Options{DryRun: true})
	require.NoError(t, r.err)
	require.Equal(t, []string{"unlabelled"}, r.of(migrate.Refused), "known before it is tried")
	require.Equal(t, []string{"damaged", "unreadable"}, r.of(migrate.Failed))

	r = runCopy(t, from, target, migrate.Options{})
	require.NoError(t, r.err)
	require.Len(t, r.of(migrate.Created), 100)
	require.Equal(t, []string{"gone"}, r.of(migrate.Gone))
	require.Equal(t, []string{"refused", "unlabelled"}, r.of(migrate.Refused))
	require.Equal(t, []string{"damaged", "full", "taken", "unreadable", "wrong"}, r.of(migrate.Failed))
	for key, want := range map[string]string{
		"damaged":    "source: get: store damaged",
		"unreadable": "target: get: access denied",
		"full":       "target: create: quota exceeded",
		"unlabelled": "invalid: no label has such a name",
		"wrong":      "target: what was read back is not what was written",
	} {
		require.EqualError(t, r.by[ref(key)].Err, want)
	}
	want := content(t, memory)
	for _, key := range keys {
		delete(want, ref(key))
	}
	got := content(t, to)
	delete(got, ref("wrong"))
	require.Equal(t, want, got)
}

// A store that fails for every secret ends the run soon; one that fails for few does not.
func TestHopeless(t *testing.T) {
	t.Parallel()
	from := storetest.Memory()
	for i := range 2000 {
		put(t, from, ref(fmt.Sprintf("k%d", i)), store.Regular)
	}
	for _, kind := range []error{secret.ErrUnavailable, secret.ErrDenied, secret.ErrQuota} {
		to := storetest.Memory()
		var calls atomic.Int64
		r := runCopy(t, from, &faulty{Store: plain{to}, create: func(secret.Ref) error {
			if calls.Add(1) > 100 {
				return kind
			}
			return nil
		}}, migrate.Options{})
		require.ErrorIs(t, r.err, kind)
		require.Len(t, r.of(migrate.Created), 100)
		require.Less(t, calls.Load(), int64(200))
		require.NotEmpty(t, r.of(migrate.Failed))

		calls.Store(0)
		r = runCopy(t, from, &faulty{Store: plain{storetest.Memory()}, create: func(secret.Ref) error {
			if calls.Add(1)%3 == 0 {
				return kind
			}
			return nil
		}}, migrate.Options{})
		require.NoError(t, r.err)
		require.Len(t, r.by, 2000)
	}
}

// bad is an importer that refuses one secret, and fails when it is full.
type bad struct {
	store.Importer
	migrate.Reader

	refuse  string
	room    int
	most    int
	biggest int
}

func (b *bad) Create(ctx context.Context, r secret.Ref, v secret.Value, typ store.Type) error {
	return b.Importer.Create(ctx, r, v, typ)
}

func (b *bad) Describe(ctx context.Context, r secret.Ref) (store.Info, error) {
	return b.Importer.Describe(ctx, r)
}

func (b *bad) List(ctx context.Context, f store.Filter, limit int, token string) ([]store.Info, string, error) {
	return b.Importer.List(ctx, f, limit, token)
}

func (b *bad) Import(ctx context.Context, secrets []store.New) error {
	bytes := 0
	for _, n := range secrets {
		if n.Ref.Key == b.refuse {
			return &secret.Error{Op: "create", Ref: n.Ref, Err: secret.ErrExists}
		}
		bytes += n.Value.Len()
	}
	b.most, b.biggest = max(b.most, len(secrets)), max(b.biggest, bytes)
	if b.room -= len(secrets); b.room < 0 {
		return fmt.Errorf("import: %w: the disk is full", secret.ErrUnavailable)
	}
	return b.Importer.Import(ctx, secrets)
}

// An import stores all or none, so one that is refused is repeated without the secret that is.
func TestImport(t *testing.T) {
	t.Parallel()
	from := storetest.Memory()
	for i := range 2500 {
		put(t, from, ref(fmt.Sprintf("k%d", i)), store.Regular)
	}
	for i := range 40 {
		require.NoError(t, from.Create(t.Context(), ref(fmt.Sprintf("large%d", i)),
			secret.NewValue(make([]byte, store.MaxValue)), store.Regular))
	}
	memory := storetest.Memory()
	importer, ok := memory.(store.Importer)
	require.True(t, ok)
	to := &bad{Importer: importer, Reader: memory, refuse: "k700", room: 1 << 30}
	r := runCopy(t, from, to, migrate.Options{})
	require.NoError(t, r.err)
	require.Equal(t, []string{"k700"}, r.of(migrate.Failed))
	require.EqualError(t, r.by[ref("k700")].Err, "target: create: secret already exists")
	require.Len(t, r.of(migrate.Created), 2539)
	require.LessOrEqual(t, to.most, 1000)
	require.LessOrEqual(t, to.biggest, 5<<20)

	// A full target has what was imported before, and is known to be full.
	memory = storetest.Memory()
	importer, ok = memory.(store.Importer)
	require.True(t, ok)
	to = &bad{Importer: importer, Reader: memory, room: 1500}
	r = runCopy(t, from, to, migrate.Options{})
	require.ErrorIs(t, r.err, secret.ErrUnavailable)
	require.ErrorContains(t, r.err, "the disk is full")
	require.NotEmpty(t, r.of(migrate.Failed))
	require.Len(t, content(t, memory), len(r.of(migrate.Created)))
	to.room = 1 << 30
	r = runCopy(t, from, to, migrate.Options{})
	require.NoError(t, r.err)
	require.Equal(t, content(t, from), content(t, memory))
}

// slow is a store whose reads and changes wait for each other, and which counts those at the same
// time.
type slow struct {
	store.Store

	now, most atomic.Int64
}

func (s *slow) wait() {
	now := s.now.Add(1)
	defer s.now.Add(-1)
	for {
		most := s.most.Load()
		if now <= most || s.most.CompareAndSwap(most, now) {
			break
		}
	}
	time.Sleep(time.Millisecond)
}

func (s *slow) Get(ctx context.Context, r secret.Ref) (secret.Value, store.Info, error) {
	s.wait()
	return s.Store.Get(ctx, r)
}

func (s *slow) Create(ctx context.Context, r secret.Ref, v secret.Value, typ store.Type) error {
	s.wait()
	return s.Store.Create(ctx, r, v, typ)
}

// Many secrets are under way at the same time, and not more than that.
func TestParallel(t *testing.T) {
	t.Parallel()
	from := storetest.Memory()
	for i := range 500 {
		put(t, from, ref(fmt.Sprintf("k%d", i)), store.Regular)
	}
	to := &slow{Store: plain{storetest.Memory()}}
	r := runCopy(t, from, to, migrate.Options{})
	require.NoError(t, r.err)
	require.LessOrEqual(t, to.most.Load(), int64(16))
	require.Greater(t, to.most.Load(), int64(4))
}

// A run that is interrupted reports exactly what it did, and the next one does the rest.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for name, target := range targets {
		t.Run(name, func(t *testing.T) {
			from, to := storetest.Memory(), target()
			for i := range 3000 {
				put(t, from, ref(fmt.Sprintf("k%d", i)), store.Regular)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			stop := errors.New("SIGINT")
			seen := &seer{Store: from, after: 1700, do: func() { cancel(stop) }}
			r := &results{}
			err := migrate.Copy(ctx, seen, to, migrate.Options{Report: r.add})
			require.ErrorIs(t, err, stop)
			done := r.of(migrate.Created)
			require.Less(t, len(done), 3000)
			require.Greater(t, len(done), 1600)
			require.Len(t, content(t, to), len(done), "what is reported is there, and nothing else")

			r = runCopy(t, from, to, migrate.Options{})
			require.NoError(t, r.err)
			require.Len(t, r.of(migrate.Equal), len(done))
			require.Equal(t, content(t, from), content(t, to))

			// So does an end of the report, such as that of a closed stdout.
			closed := errors.New("closed")
			require.ErrorIs(t, migrate.Copy(t.Context(), from, to, migrate.Options{
				Report: func(migrate.Result) error { return closed },
			}), closed)
		})
	}
}

// seer calls do after a number of reads.
type seer struct {
	store.Store

	mu    sync.Mutex
	reads int
	after int
	do    func()
}

func (s *seer) Get(ctx context.Context, r secret.Ref) (secret.Value, store.Info, error) {
	s.mu.Lock()
	if s.reads++; s.reads == s.after {
		s.do()
	}
	s.mu.Unlock()
	return s.Store.Get(ctx, r)
}

// salvaged is a store whose list ends in the middle, and which can be read past that.
type salvaged struct{ store.Store }

func (salvaged) List(context.Context, store.Filter, int, string) ([]store.Info, string, error) {
	return nil, "", secret.ErrCorrupt
}

func (s salvaged) Salvage(ctx context.Context, yield func(store.Info, error) error) error {
	n := 0
	for info, err := range store.All(ctx, s.Store, store.Filter{}) {
		if n++; n%1200 == 0 {
			if err := yield(store.Info{}, fmt.Errorf("part %d: %w", n, secret.ErrCorrupt)); err != nil {
				return err
			}
		}
		if err := errors.Join(err, yield(info, nil)); err != nil {
			return err
		}
	}
	return nil
}

// breaking is a store that fails after what it has salvaged, as a namespace does that is being deleted.
type breaking struct{ salvaged }

func (b breaking) Salvage(ctx context.Context, yield func(store.Info, error) error) error {
	return errors.Join(b.salvaged.Salvage(ctx, yield), secret.ErrUnavailable)
}

// A damaged source is copied as far as it can be read, and what was lost is reported.
func TestSalvage(t *testing.T) {
	t.Parallel()
	from, to := storetest.Memory(), storetest.Memory()
	for i := range 3000 {
		put(t, from, ref(fmt.Sprintf("k%d", i)), store.Regular)
	}
	r := runCopy(t, salvaged{from}, to, migrate.Options{})
	require.NoError(t, r.err)
	require.Len(t, r.nobody, 2)
	require.EqualError(t, r.nobody[0], "part 1200: store damaged")
	require.Equal(t, content(t, from), content(t, to))

	rest := storetest.Memory()
	r = runCopy(t, breaking{salvaged{from}}, rest, migrate.Options{})
	require.ErrorIs(t, r.err, secret.ErrUnavailable)
	require.Equal(t, content(t, from), content(t, rest))

	stop := errors.New("stop")
	require.ErrorIs(t, migrate.Copy(t.Context(), salvaged{from}, to, migrate.Options{
		Report: func(migrate.Result) error { return stop },
	}), stop)

	// Where nothing can be read past the damage, the list's error ends the run.
	r = runDelete(t, salvaged{from}, to, migrate.Options{})
	require.ErrorIs(t, r.err, secret.ErrCorrupt)
	require.Equal(t, content(t, from), content(t, to))
}

// Only what the target has with the same value and type is deleted.
func TestDeleteEqual(t *testing.T) {
	t.Parallel()
	from, to := storetest.Memory(), storetest.Memory()
	for i := range 1500 {
		put(t, from, ref(fmt.Sprintf("k%d", i)), store.Regular)
	}
	require.NoError(t, runCopy(t, from, to, migrate.Options{}).err)
	put(t, from, ref("missing"), store.Regular)
	put(t, from, ref("differs"), store.Regular)
	put(t, to, ref("differs"), store.Regular)
	b := put(t, from, ref("type"), store.Regular)
	require.NoError(t, to.Create(t.Context(), ref("type"), secret.NewValue(b), store.ImagePull))
	put(t, from, ref("unreadable"), store.Regular)
	target := content(t, to)
	source := content(t, from)
	read := &faulty{Store: untouchable{to, t}, get: func(r secret.Ref) error {
		return map[string]error{"unreadable": secret.ErrUnavailable}[r.Key]
	}}

	r := runDelete(t, untouchable{from, t}, read, migrate.Options{DryRun: true})
	require.NoError(t, r.err)
	require.Len(t, r.of(migrate.Deleted), 1500)
	require.Equal(t, source, content(t, from))
	r = runDelete(t, from, read, migrate.Options{})
	require.NoError(t, r.err)
	require.Len(t, r.of(migrate.Deleted), 1500)
	require.Equal(t, []string{"missing"}, r.of(migrate.Missing))
	require.Equal(t, []string{"differs", "type"}, r.of(migrate.Differs))
	require.Equal(t, []string{"unreadable"}, r.of(migrate.Failed))
	require.Equal(t, target, content(t, to))
	for r := range content(t, from) {
		require.Contains(t, []string{"missing", "differs", "type", "unreadable"}, r.Key)
	}
}

// Two addresses of one store do not lose a secret, however different they look, also if its name could not
// be created anew.
func TestDeleteSame(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"k%d", "odd.name_%d"} {
		for name, as := range map[string]func(store.Store) store.Store{
			"importer": func(s store.Store) store.Store { return s },
			"keeper":   func(s store.Store) store.Store { return keeper{plain{s}} },
			"neither":  func(s store.Store) store.Store { return plain{s} },
		} {
			if key != "k%d" && name == "neither" {
				continue // has no such secrets
			}
			one := storetest.Memory()
			for i := range 500 {
				v := secret.NewValue(storetest.Value(t, 30))
				n := store.New{Ref: ref(fmt.Sprintf(key, i)), Value: v, Copied: true}
				require.NoError(t, keeper{plain{one}}.CreateCopy(t.Context(), n))
			}
			before := content(t, one)
			r := runDelete(t, as(one), one, migrate.Options{})
			require.ErrorIs(t, r.err, migrate.ErrSame, name)
			require.Equal(t, before, content(t, one), name)
			require.Empty(t, r.of(migrate.Deleted))
		}
	}
}

// keeper is a store that takes the secrets of others one by one.
type keeper struct{ plain }

func (keeper) Holds(n store.New) error { return store.Writable(n.Ref, n.Value) }

func (k keeper) CreateCopy(ctx context.Context, n store.New) error {
	to, _ := k.Store.(store.Importer)
	return to.Import(ctx, []store.New{n})
}

// A secret whose name could not be created anew is copied to a store that takes it as it is.
func TestOddNames(t *testing.T) {
	t.Parallel()
	from := storetest.Memory()
	importer, ok := from.(store.Importer)
	require.True(t, ok)
	odd := []store.New{
		{Ref: ref("odd.name_x"), Value: secret.NewValue([]byte("v")), Copied: true},
		{Ref: secret.Ref{Scope: secret.Scope{Org: "\u0430bc"}, Key: "CYRILLIC"}, Copied: true},
	}
	require.NoError(t, importer.Import(t.Context(), odd))
	for name, target := range targets {
		to := target()
		r := runCopy(t, from, to, migrate.Options{})
		require.NoError(t, r.err)
		if name == "importer" {
			require.Equal(t, content(t, from), content(t, to))
			continue
		}
		require.Equal(t, []string{"CYRILLIC", "odd.name_x"}, r.of(migrate.Refused))
		r = runCopy(t, from, &faulty{Store: &careful{Store: to}}, migrate.Options{DryRun: true})
		require.Equal(t, []string{"CYRILLIC", "odd.name_x"}, r.of(migrate.Created))
	}
}

// careful is a store that another one changes before each change.
type careful struct {
	store.Store

	change func()
}

func (c *careful) from(ctx context.Context, r secret.Ref, was secret.Value, do func() error) (bool, error) {
	c.change()
	v, _, err := c.Get(ctx, r)
	if err != nil || !v.Equal(was) {
		return false, err
	}
	return true, do()
}

func (c *careful) UpdateFrom(ctx context.Context, r secret.Ref, was, v secret.Value) (bool, error) {
	return c.from(ctx, r, was, func() error { return c.Update(ctx, r, v) })
}

func (c *careful) DeleteFrom(ctx context.Context, r secret.Ref, was secret.Value) (bool, error) {
	return c.from(ctx, r, was, func() error { return c.Delete(ctx, r) })
}

// A change that comes in between is neither overwritten nor deleted, where the store can tell.
func TestChangedMeanwhile(t *testing.T) {
	t.Parallel()
	from, to := storetest.Memory(), storetest.Memory()
	put(t, from, ref("K"), store.Regular)
	put(t, to, ref("K"), store.Regular)
	nothing := func() {}
	others := func(s store.Store) func() {
		return func() { require.NoError(t, s.Update(t.Context(), ref("K"), secret.NewValue([]byte("of others")))) }
	}
	r := runCopy(t, from, &careful{to, others(to)}, migrate.Options{Overwrite: migrate.All})
	require.Equal(t, []string{"K"}, r.of(migrate.Failed))
	require.ErrorContains(t, r.by[ref("K")].Err, "target: it was changed meanwhile")
	v, _, err := to.Get(t.Context(), ref("K"))
	require.NoError(t, err)
	require.Equal(t, "of others", string(v.Reveal()))
	r = runCopy(t, from, &careful{to, nothing}, migrate.Options{Overwrite: migrate.All})
	require.Equal(t, []string{"K"}, r.of(migrate.Updated))

	r = runDelete(t, &careful{from, others(from)}, to, migrate.Options{})
	require.Equal(t, []string{"K"}, r.of(migrate.Failed))
	require.ErrorContains(t, r.by[ref("K")].Err, "source: it was changed meanwhile")
	v, _, err = from.Get(t.Context(), ref("K"))
	require.NoError(t, err)
	require.Equal(t, "of others", string(v.Reveal()))
	require.NoError(t, to.Update(t.Context(), ref("K"), v))
	r = runDelete(t, &careful{from, nothing}, to, migrate.Options{})
	require.Equal(t, []string{"K"}, r.of(migrate.Deleted))
}
