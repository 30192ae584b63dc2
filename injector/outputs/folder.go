package outputs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"inject/exec/redact"
	"inject/injector/outputs/content"
)

// A Policy says what is done about values in the outputs of a task.
type Policy string

// The policies. Mask masks values, and takes files that cannot be masked out of the folder. Fail
// does the same, and every find is a failure. Warn changes nothing and only reports.
const (
	Mask Policy = "mask"
	Fail Policy = "fail"
	Warn Policy = "warn"
)

// A Folder is a folder in which a task leaves its outputs, with all folders below it.
type Folder struct {
	path     string
	given    string   // path as the caller wrote it, for messages
	above    *os.File // the nearest folder above it that existed when it was opened
	below    string   // path from above to the folder
	redactor *redact.Redactor
	policy   Policy
}

// OpenFolder returns the folder at path, which need not exist yet. Check will look for the
// values that r knows by then. It is an error if something else is at path.
func OpenFolder(path string, r *redact.Redactor, policy Policy) (*Folder, error) {
	abs, err := filepath.Abs(path) // the working folder changes before Check
	if err != nil {
		return nil, err
	}
	switch info, err := os.Stat(abs); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nil, &fs.PathError{Op: "open", Path: path, Err: unix.ENOTDIR}
	default:
		// Resolve a link now, when it is the operator's; later it may be the task's.
		if abs, err = filepath.EvalSymlinks(abs); err != nil {
			return nil, err
		}
	}

	f := &Folder{path: abs, given: path, redactor: r, policy: policy}
	// The folder above is kept open, so that the task cannot replace it.
	for above := filepath.Dir(abs); ; above = filepath.Dir(above) {
		fd, err := unix.Open(above, passing|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) && above != filepath.Dir(above) {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: above, Err: err}
		}
		f.above = os.NewFile(uintptr(fd), above)
		f.below, err = filepath.Rel(above, abs)
		return f, err
	}
}

// A Finding is a file that holds values, or may hold some, and what was done about it.
type Finding struct {
	Path    string         // relative to the folder
	Found   map[string]int // how often each value was found, by name
	Why     string         // why the file was not masked; "" if it was
	Outcome string         // what was done, for people
}

// A Report is the result of checking folders. The numbers count files; Findings lists only the
// first of them.
type Report struct {
	Files    int // checked
	Masked   int
	Refused  int      // taken out of the folder
	Left     int      // neither masked nor taken out
	Missing  []string // paths of the folders that are not there, as the caller wrote them
	Findings []Finding
}

// maxFindings is how many findings are listed.
const maxFindings = 100

// Leaks reports whether the policy p makes the findings a failure of the run.
func (r *Report) Leaks(p Policy) bool {
	return r.Refused+r.Left > 0 && p != Warn || r.Masked > 0 && p == Fail
}

// Add adds the report of another folder.
func (r *Report) Add(other Report) {
	r.Files += other.Files
	r.Masked += other.Masked
	r.Refused += other.Refused
	r.Left += other.Left
	r.Missing = append(r.Missing, other.Missing...)
	r.Findings = append(r.Findings, other.Findings[:min(len(other.Findings), maxFindings-len(r.Findings))]...)
}

func (r *Report) add(f Finding, counter *int) {
	if counter == &r.Left && slices.ContainsFunc(r.Findings, func(g Finding) bool { return g.Path == f.Path }) {
		return // it is reported already: its folder was listed again
	}
	*counter++
	if len(r.Findings) < maxFindings {
		r.Findings = append(r.Findings, f)
	}
}

// Check checks all files in the folder. It is called when the task and its processes have
// ended. A file with values is masked. A file that cannot be masked, or is not checked when ctx
// ends, is moved to a new folder beside this one, or removed if it cannot be moved. A file that
// can be neither masked nor moved nor removed is left.
//
// Nothing outside of the folder is changed, even if a process of the task still runs: files are
// opened relative to the folder that is open, no link is followed, and no other file system is
// entered. Such a file system is left, too. The report has all of this.
func (f *Folder) Check(ctx context.Context) (Report, error) {
	c := checker{Folder: f, ctx: ctx, in: content.NewInspector(f.redactor)}
	parent, name := int(f.above.Fd()), f.below
	if above, last := filepath.Split(f.below); above != "" {
		dir, err := openAt(parent, filepath.Clean(above), passing)
		switch {
		case errors.Is(err, unix.ENOENT):
			c.report.Missing = []string{f.given}
			return c.report, nil
		case err != nil:
			return c.report, &fs.PathError{Op: "open", Path: filepath.Dir(f.path), Err: err}
		}
		defer unix.Close(dir) //nolint:errcheck // a folder
		parent, name = dir, last
	}

	c.away.parent, c.away.beside = parent, filepath.Dir(f.path)
	root, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT): // the task has no outputs
		c.report.Missing = []string{f.given}
		return c.report, nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		c.refuse(parent, name, ".", nil, "it is no longer a folder")
		return c.report, nil
	case err != nil:
		return c.report, &fs.PathError{Op: "open", Path: f.path, Err: err}
	}

	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		_ = unix.Close(root)
		return c.report, err
	}
	c.device = uint64(st.Dev) //nolint:unconvert // other systems have other types
	c.folder(root, "", 0)
	c.away.close()
	return c.report, nil
}

// checker is the state of one call of Check.
type checker struct {
	*Folder

	ctx    context.Context //nolint:containedctx // it lives as long as one call
	in     *content.Inspector
	report Report
	device uint64
	away   quarantine
	again  bool // the current folder is being listed again
}

const (
	// maxFolders is how deep folders may be nested, because each of them stays open.
	maxFolders = 200
	// batch is how many names of a folder are read at a time.
	batch = 512
	// attempts is how often a file is checked that keeps changing, and maxPasses how often a
	// folder is listed.
	attempts  = 3
	maxPasses = 3
)

// folder checks the folder that is open as dir, and closes it. rel is its path.
func (c *checker) folder(dir int, rel string, depth int) {
	d := os.NewFile(uintptr(dir), rel)
	defer d.Close() //nolint:errcheck // read only
	visited := map[string]bool{}
	// When a name is removed while a folder is listed, some file systems skip another name. So
	// the folder is listed again after every change. If ctx ends meanwhile, all that was listed
	// the first time has been checked.
	again := c.again
	defer func() { c.again = again }()
	for passes := range maxPasses {
		c.again = passes > 0
		changed, err := c.list(d, dir, rel, depth, visited)
		if err == nil && changed {
			_, err = d.Seek(0, io.SeekStart)
		}
		if err != nil {
			c.left(rel, nil, "it cannot be listed: "+err.Error())
		}
		if err != nil || !changed {
			return
		}
	}
}

// list checks all entries of a folder once, except folders in visited. It reports whether it has
// replaced or removed an entry.
func (c *checker) list(d *os.File, dir int, rel string, depth int, visited map[string]bool) (changed bool, err error) {
	for err == nil {
		var entries []os.DirEntry
		entries, err = d.ReadDir(batch)
		suspicious := c.holds(paths(rel, entries))
		for _, e := range entries {
			path := filepath.Join(rel, e.Name())
			before := c.report.Masked + c.report.Refused
			switch {
			case c.ctx.Err() != nil && c.again:
				return false, nil
			case c.ctx.Err() != nil:
				c.refuse(dir, e.Name(), path, nil, "it was not checked in time")
			case suspicious && c.holds(path):
				c.refuse(dir, e.Name(), path, nil, "its name holds a value")
			case !e.IsDir():
				c.entry(dir, e, path)
			case visited[e.Name()]:
			default:
				visited[e.Name()] = true
				c.subfolder(dir, e.Name(), path, depth)
				continue // its own listing takes care of changes in it
			}
			changed = changed || c.report.Masked+c.report.Refused > before
		}
	}
	if err == io.EOF {
		err = nil
	}
	return changed, err
}

// paths returns the paths of all entries, separated by NUL, which is in no path. Paths and not
// names, because a value may have a slash in it.
func paths(rel string, entries []os.DirEntry) string {
	var b strings.Builder
	for _, e := range entries {
		b.WriteString(filepath.Join(rel, e.Name()))
		b.WriteByte(0)
	}
	return b.String()
}

// holds reports whether text holds a value.
func (c *checker) holds(text string) (found bool) {
	w := c.redactor.Writer(io.Discard)
	w.Found = func(redact.Find) { found = true }
	_, _ = io.WriteString(w, text) // io.Discard returns no error
	_ = w.Close()
	return found
}

// subfolder checks the folder called name in dir.
func (c *checker) subfolder(dir int, name, path string, depth int) {
	if depth == maxFolders {
		c.refuse(dir, name, path, nil, "it is nested too deep")
		return
	}
	sub, err := c.openFolder(dir, name)
	switch {
	case err == nil:
		c.folder(sub, path, depth+1)
	case errors.Is(err, unix.EXDEV):
		c.left(path, nil, "it is another file system: it needs an --outputs of its own")
	case !errors.Is(err, unix.ENOENT):
		c.refuse(dir, name, path, nil, "it cannot be read: "+err.Error())
	}
}

// openFolder opens a folder in dir. For one of another file system the error is EXDEV.
func (c *checker) openFolder(dir int, name string) (int, error) {
	sub, err := openBeneath(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err == nil && crossesMounts() && !c.sameDevice(sub) {
		_ = unix.Close(sub)
		return -1, unix.EXDEV
	}
	return sub, err
}

// entry checks an entry of dir that is not a folder. Pipes, sockets and devices are skipped,
// because they hold no data.
func (c *checker) entry(dir int, e os.DirEntry, path string) {
	switch kind := e.Type(); {
	case kind.IsRegular():
		c.file(dir, e.Name(), path)
	case kind&fs.ModeSymlink != 0:
		target := make([]byte, unix.PathMax)
		if n, err := unix.Readlinkat(dir, e.Name(), target); err == nil && c.holds(string(target[:n])) {
			c.refuse(dir, e.Name(), path, nil, "the target of this link holds a value")
		}
	}
}

func (c *checker) sameDevice(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && uint64(st.Dev) == c.device //nolint:unconvert // other systems have other types
}

// file checks a file.
func (c *checker) file(dir int, name, path string) {
	if !c.again {
		c.report.Files++
	}
	err := errAgain
	for n := 0; n < attempts && errors.Is(err, errAgain); n++ {
		err = c.look(dir, name, path)
	}
	switch {
	case err == nil, errors.Is(err, unix.ENOENT): // checked, or removed by another process
	case c.ctx.Err() != nil && c.again:
	case c.ctx.Err() != nil:
		c.refuse(dir, name, path, nil, "it was not checked in time")
	case errors.Is(err, unix.EXDEV):
		c.left(path, nil, "it is another file system's")
	case errors.Is(err, errAgain):
		c.refuse(dir, name, path, nil, err.Error())
	default:
		c.refuse(dir, name, path, nil, "it cannot be read: "+err.Error())
	}
}

// look checks a file once. If it returns nil, it has masked, refused or left the file as needed,
// and has reported that. If it returns an error, it has changed and reported nothing.
func (c *checker) look(dir int, name, path string) error {
	fd, err := openBeneath(dir, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close() //nolint:errcheck // read only
	st, before, err := stat(fd)
	switch {
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errAgain // it was a regular file when it was listed
	case before.dev != c.device && crossesMounts():
		return unix.EXDEV
	}

	seen, err := inspectFile(c.ctx, c.in, f)
	if err != nil {
		return err
	}
	if _, now, err := stat(fd); err != nil || now != before {
		return errors.Join(err, errAgain)
	}

	switch {
	case len(seen.Found) == 0 && !seen.Unchecked:
	case c.policy == Warn:
		c.report.add(Finding{path, seen.Found, seen.Why, "left as it is"}, &c.report.Left)
	case seen.Unchecked:
		c.refuse(dir, name, path, seen.Found, seen.Why)
	case !seen.Maskable():
		c.refuse(dir, name, path, seen.Found, seen.Why+", which cannot be masked")
	case before.links > 1:
		c.refuse(dir, name, path, seen.Found, "it has other names (hard links)")
	default:
		return c.mask(dir, name, path, f, seen, &st)
	}
	return nil
}

// mask replaces a file by a masked one with the same times, and reports the outcome.
func (c *checker) mask(dir int, name, path string, f *os.File, seen content.Content, st *unix.Stat_t) error {
	err := replaceMasked(c.ctx, c.in, dir, name, f, seen, signatureOf(st), st, nil)
	if err == nil {
		err = unix.Fsync(dir)
	}
	switch {
	case err == nil:
		c.report.add(Finding{path, seen.Found, "", "masked"}, &c.report.Masked)
	case errors.Is(err, errAgain), c.ctx.Err() != nil:
		return err
	case errors.Is(err, content.ErrStill):
		c.refuse(dir, name, path, seen.Found, err.Error())
	default:
		c.refuse(dir, name, path, seen.Found, "it cannot be masked: "+err.Error())
	}
	return nil
}

// refuse takes the entry called name in dir out of the folder, and reports that.
func (c *checker) refuse(dir int, name, path string, found map[string]int, why string) {
	if c.policy == Warn {
		c.left(path, found, why)
		return
	}
	to, err := c.away.take(dir, name)
	if err != nil {
		to, err = "removed", c.remove(dir, name)
	}
	switch {
	case err == nil:
		c.report.add(Finding{path, found, why, to}, &c.report.Refused)
	case !errors.Is(err, fs.ErrNotExist):
		c.left(path, found, why+"; and it cannot be removed: "+err.Error())
	}
}

func (c *checker) left(path string, found map[string]int, why string) {
	c.report.add(Finding{path, found, why, "left as it is"}, &c.report.Left)
}

// remove removes the entry called name in dir with everything below it.
func (c *checker) remove(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	sub, err2 := c.openFolder(dir, name)
	if err2 != nil {
		return err
	}
	d := os.NewFile(uintptr(sub), name)
	defer d.Close() //nolint:errcheck // read only
	for {
		entries, err := d.ReadDir(batch)
		for _, e := range entries {
			if err := c.remove(sub, e.Name()); err != nil {
				return err
			}
		}
		switch {
		case err == nil:
		case err != io.EOF:
			return err
		default:
			return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
		}
	}
}

// A quarantine is a folder for files that are taken out of the outputs. It is beside them, so
// that a file of any size is moved by a rename. Only this user can read it.
type quarantine struct {
	parent int    // descriptor of the folder that holds the outputs and the quarantine
	beside string // path of that folder, for people
	path   string
	fd     int
	n      int
	none   bool // it cannot be used: the outputs are a mount, or the parent is not writable
}

// take moves the entry called name in dir into the quarantine, and returns the new place for
// people.
func (q *quarantine) take(dir int, name string) (string, error) {
	if q.path == "" && !q.none {
		own := ".inject-refused-" + rand.Text()
		q.path = filepath.Join(q.beside, own)
		err := unix.Mkdirat(q.parent, own, 0o700)
		if err == nil {
			if q.fd, err = openBeneath(q.parent, own, unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
				_ = unix.Unlinkat(q.parent, own, unix.AT_REMOVEDIR)
			}
		}
		q.none = err != nil
	}
	if q.none {
		return "", unix.EXDEV
	}
	q.n++
	kept := fmt.Sprintf("%d", q.n) // not its name, which may hold a value
	if err := unix.Renameat(dir, name, q.fd, kept); err != nil {
		if errors.Is(err, unix.EXDEV) && q.n == 1 {
			q.close()
			q.none = true
			_ = unix.Unlinkat(q.parent, filepath.Base(q.path), unix.AT_REMOVEDIR)
		}
		return "", err
	}
	return "moved to " + filepath.Join(q.path, kept), nil
}

func (q *quarantine) close() {
	if q.path != "" && !q.none {
		_ = unix.Close(q.fd)
	}
}

// openAt opens the file or folder at rel below root, one name after the other, so that no part
// of rel can be a link.
func openAt(root int, rel string, last int) (int, error) {
	dir := root
	for {
		name, rest, more := strings.Cut(rel, string(filepath.Separator))
		flags := last
		if more {
			flags = passing
		}
		fd, err := openBeneath(dir, name, flags)
		if dir != root {
			_ = unix.Close(dir)
		}
		if err != nil || !more {
			return fd, err
		}
		dir, rel = fd, rest
	}
}
