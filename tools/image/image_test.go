package main

import (
	"archive/tar"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/google/licensecheck"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
	"github.com/stretchr/testify/require"
)

const root = "../.."

// about are the variables of make images that a checkout sets by its commit.
var about = []string{
	"VERSION=v1.2.3", "REVISION=0123456789012345678901234567890123456789", "SOURCE=https://example.org/inject",
	"SOURCE_DATE_EPOCH=1700000000",
}

// A builder is a folder, and what else differs from one machine to the next.
type builder struct {
	folder, home, zone, umask string
	modified                  time.Time // of the source
	settings                  []string  // of Go
}

// build runs make images in a copy of the source, and returns the folder that it writes. The caches of Go
// are this machine's: without them a build takes minutes.
func (b builder) build(t *testing.T) string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
	list.Dir = root
	names, err := list.Output()
	require.NoError(t, err)
	for path := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join(root, path))
		if errors.Is(err, os.ErrNotExist) { // deleted, and not yet committed
			continue
		}
		require.NoError(t, err)
		info, err := os.Stat(filepath.Join(root, path))
		require.NoError(t, err)
		to := filepath.Join(b.folder, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o750))
		require.NoError(t, os.WriteFile(to, content, info.Mode().Perm()))
		require.NoError(t, os.Chtimes(to, b.modified, b.modified))
	}
	caches, err := exec.CommandContext(t.Context(), "go", "env", "GOCACHE", "GOMODCACHE", "GOPROXY").Output()
	require.NoError(t, err)
	paths := strings.Split(string(caches), "\n")

	command := "umask " + b.umask + " && exec make --no-print-directory images " + strings.Join(about, " ")
	made := exec.CommandContext(t.Context(), "sh", "-c", command)
	made.Dir = b.folder
	made.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + b.home, "TZ=" + b.zone,
		"GOCACHE=" + paths[0], "GOMODCACHE=" + paths[1], "GOPROXY=" + paths[2],
	}, b.settings...)
	out, err := made.CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	return filepath.Join(b.folder, "dist", "images")
}

// index returns the image index of a layout.
func index(t *testing.T, path string) v1.ImageIndex {
	t.Helper()
	top, err := layout.ImageIndexFromPath(path)
	require.NoError(t, err)
	manifest, err := top.IndexManifest()
	require.NoError(t, err)
	require.Len(t, manifest.Manifests, 1, "crane takes the image of a layout only if it has one")
	index, err := top.ImageIndex(manifest.Manifests[0].Digest)
	require.NoError(t, err)
	return index
}

// manifestOf returns the manifest of an index, and its text, which names every digest.
func manifestOf(t *testing.T, index v1.ImageIndex) (*v1.IndexManifest, string) {
	t.Helper()
	manifest, err := index.IndexManifest()
	require.NoError(t, err)
	raw, err := index.RawManifest()
	require.NoError(t, err)
	return manifest, string(raw)
}

// TestImages checks make images: two machines make the same images, and each image has its SBOM.
func TestImages(t *testing.T) {
	dir := t.TempDir()
	one := builder{filepath.Join(dir, "a"), dir, "UTC", "022", time.Unix(1e9, 0), nil}
	file := filepath.Join(dir, "env") // as go env -w writes it
	require.NoError(t, os.WriteFile(file, []byte("GOFIPS140=latest\nGOSUMDB=off\n"), 0o600))
	other := builder{
		filepath.Join(dir, "b", "deeper"), filepath.Join(dir, "home"), "Asia/Tokyo", "077", time.Now(),
		[]string{"GOFLAGS=-buildmode=pie", "GOEXPERIMENT=nodwarf5", "GOENV=" + file},
	}
	began := time.Now()
	built := one.build(t)
	t.Logf("make images took %s", time.Since(began).Round(time.Second))
	rebuilt := other.build(t)

	for name := range configs {
		_, got := manifestOf(t, index(t, filepath.Join(built, name)))
		_, again := manifestOf(t, index(t, filepath.Join(rebuilt, name)))
		require.Equal(t, got, again, "two builds of %s have other digests", name)

		// The comparison finds a difference of one second.
		later := filepath.Join(dir, "later-"+name)
		require.NoError(t, run([]string{
			"layout", "-o", later, "-name", name, "-files", filepath.Join(built, "rootfs"), "-version", "v1.2.3",
			"-created", "1700000001", filepath.Join(built, "bin", "linux", "amd64", name),
		}))
		changed, _ := manifestOf(t, index(t, later))
		require.NotContains(t, got, changed.Manifests[0].Digest.String())

		t.Run(name, func(t *testing.T) { check(t, built, name) })
	}
}

// check checks the index and the SBOMs of one image.
func check(t *testing.T, built, name string) {
	index := index(t, filepath.Join(built, name))
	manifest, _ := manifestOf(t, index)
	require.Equal(t, map[string]string{
		"org.opencontainers.image.title":    name,
		"org.opencontainers.image.licenses": "Apache-2.0",
		"org.opencontainers.image.created":  "2023-11-14T22:13:20Z",
		"org.opencontainers.image.version":  "v1.2.3",
		"org.opencontainers.image.revision": "0123456789012345678901234567890123456789",
		"org.opencontainers.image.source":   "https://example.org/inject",
	}, manifest.Annotations)
	pushed := push(t, index)

	var platforms []string
	for _, described := range manifest.Manifests {
		platforms = append(platforms, described.Platform.String())
		if described.Platform.OS == "unknown" {
			continue
		}
		image, err := index.Image(described.Digest)
		require.NoError(t, err)
		require.NoError(t, validate.Image(image))
		file, err := image.ConfigFile()
		require.NoError(t, err)
		require.Equal(t, "2023-11-14T22:13:20Z", file.Created.Format(time.RFC3339))

		program := filepath.Join(built, "bin", described.Platform.OS, described.Platform.Architecture, name)
		want, err := os.ReadFile(program)
		require.NoError(t, err)
		sum := sha256.Sum256(want)
		require.Equal(t, hex.EncodeToString(sum[:]), contentOf(t, image)["/"+name].sum, "the program in the image")

		document := sbom(t, pushed.Digest(described.Digest.String()))
		require.Equal(t, hex.EncodeToString(sum[:]), document.Packages[0].PackageChecksums[0].Value)
		complete(t, document, program)
	}
	require.Equal(t, []string{"linux/amd64", "linux/arm64", "unknown/unknown", "unknown/unknown"}, platforms)
}

// push pushes index to a registry, as any client would, and returns the repository.
func push(t *testing.T, index v1.ImageIndex) name.Repository {
	t.Helper()
	silent := registry.Logger(log.New(io.Discard, "", 0))
	server := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), silent))
	t.Cleanup(server.Close)
	repository, err := name.NewRepository(strings.TrimPrefix(server.URL, "http://") + "/mirror/inject")
	require.NoError(t, err)
	require.NoError(t, remote.WriteIndex(repository.Tag("v1.2.3"), index))
	return repository
}

// sbom returns the SBOM among the referrers of image in a registry.
func sbom(t *testing.T, image name.Digest) *v2_3.Document {
	t.Helper()
	referrers, err := remote.Referrers(image)
	require.NoError(t, err)
	list, err := referrers.IndexManifest()
	require.NoError(t, err)
	require.Len(t, list.Manifests, 1)
	attested, err := remote.Image(image.Digest(list.Manifests[0].Digest.String()))
	require.NoError(t, err)
	manifest, err := attested.Manifest()
	require.NoError(t, err)
	require.Equal(t, attestationType, manifest.ArtifactType)
	require.Len(t, manifest.Layers, 1)
	require.Equal(t, "https://spdx.dev/Document", manifest.Layers[0].Annotations["in-toto.io/predicate-type"])
	blob, err := remote.Layer(image.Digest(manifest.Layers[0].Digest.String()))
	require.NoError(t, err)
	reader, err := blob.Compressed()
	require.NoError(t, err)
	var document v2_3.Document
	said := statement{Predicate: &document}
	require.NoError(t, json.NewDecoder(reader).Decode(&said))
	require.Equal(t, "sha256:"+said.Subject[0].Digest["sha256"], image.DigestStr())
	return &document
}

// complete checks that document has all modules that go version -m tells of program, and the license of
// each.
func complete(t *testing.T, document *v2_3.Document, program string) {
	t.Helper()
	got := map[string]string{} // the version by the name
	spdx := map[string]bool{"Apache-2.0": true}
	for _, license := range licensecheck.BuiltinLicenses() {
		spdx[license.ID] = true
	}
	for _, other := range document.OtherLicenses {
		require.NotEmpty(t, other.ExtractedText)
		spdx[other.LicenseIdentifier] = true
	}
	for _, one := range document.Packages {
		require.NotContains(t, got, one.PackageName)
		got[one.PackageName] = one.PackageVersion
		for license := range strings.SplitSeq(one.PackageLicenseDeclared, " AND ") {
			require.True(t, spdx[license], "%s: the license %q", one.PackageName, license)
		}
	}
	out, err := exec.CommandContext(t.Context(), "go", "version", "-m", program).Output()
	require.NoError(t, err)
	want := map[string]string{document.Packages[0].PackageName: "v1.2.3"}
	for line := range strings.Lines(string(out)) {
		if words := strings.Fields(line); words[0] == "dep" {
			want[words[1]] = words[2]
		} else if version, ok := strings.CutPrefix(words[len(words)-1], "go1."); ok {
			want["stdlib"] = "1." + version
		}
	}
	require.Greater(t, len(want), 20)
	require.NotEmpty(t, got[rootsModule])
	delete(got, rootsModule) // it is in the image, but not in the program
	require.Equal(t, want, got)
}

// content is what a user sees of a file in an image, beside its name.
type content struct {
	kind     byte
	mode     int64
	uid, gid int
	link     string
	sum      string // SHA-256, of a file
}

// contentOf returns the files and folders of an image by their paths, without the one at /.
func contentOf(t *testing.T, image v1.Image) map[string]content {
	t.Helper()
	flat := mutate.Extract(image)
	defer func() { _ = flat.Close() }()
	files := map[string]content{}
	for archive := tar.NewReader(flat); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		require.NoError(t, err)
		path := "/" + strings.Trim(header.Name, "./")
		one := content{header.Typeflag, header.Mode & 0o7777, header.Uid, header.Gid, header.Linkname, ""}
		if header.Typeflag == tar.TypeReg {
			sum := sha256.New()
			_, err := io.Copy(sum, archive)
			require.NoError(t, err)
			one.sum = hex.EncodeToString(sum.Sum(nil))
		}
		if path != "/" {
			files[path] = one
		}
	}
}

// TestRevision checks that images of a tree with changes say so, and those of a commit do not.
func TestRevision(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		t.Helper()
		c := exec.CommandContext(t.Context(), name, args...)
		c.Dir = dir
		c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
		out, err := c.CombinedOutput()
		require.NoErrorf(t, err, "%s", out)
		return strings.TrimSpace(string(out))
	}
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Makefile"), makefile, 0o600))
	run("git", "init", "--quiet")
	run("git", "add", ".")
	run("git", "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "--message", "a")
	head := run("git", "rev-parse", "HEAD")
	said := func() string { return run("make", "--dry-run", "images") }

	require.Contains(t, said(), `-revision "`+head+`"`)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "new.go"), nil, 0o600))
	require.Contains(t, said(), `-revision "`+head+`-dirty"`, "a file that is not in the commit")
	require.NoError(t, os.Remove(filepath.Join(dir, "new.go")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Makefile"), append(makefile, '\n'), 0o600))
	require.Contains(t, said(), `-revision "`+head+`-dirty"`, "a changed file")
}

// TestDocker compares the images that docker made of the Dockerfile with those of make images. INJECT_TEST_DOCKER
// is a folder with what docker save wrote as NAME-ARCHITECTURE.tar, and INJECT_TEST_IMAGES has been written by
// make images with the same VERSION. deploy/docker/test.sh sets both.
func TestDocker(t *testing.T) {
	saved, built := os.Getenv("INJECT_TEST_DOCKER"), os.Getenv("INJECT_TEST_IMAGES")
	if saved == "" {
		t.Skip("INJECT_TEST_DOCKER is not set")
	}
	for name := range configs {
		index := index(t, filepath.Join(built, name))
		manifest, _ := manifestOf(t, index)
		compared := 0
		for _, described := range manifest.Manifests {
			if described.Platform.OS == "unknown" {
				continue
			}
			compared++
			t.Run(fmt.Sprintf("%s %s", name, described.Platform), func(t *testing.T) {
				file := fmt.Sprintf("%s-%s.tar", name, described.Platform.Architecture)
				want, err := tarball.ImageFromPath(filepath.Join(saved, file), nil)
				require.NoError(t, err)
				got, err := index.Image(described.Digest)
				require.NoError(t, err)
				require.Equal(t, configOf(t, want), configOf(t, got))
				require.Equal(t, contentOf(t, want), contentOf(t, got))
			})
		}
		require.Equal(t, 2, compared)
	}
}

// configOf returns what a user sees of the configuration of an image.
func configOf(t *testing.T, image v1.Image) v1.ConfigFile {
	t.Helper()
	file, err := image.ConfigFile()
	require.NoError(t, err)
	config := file.Config
	// The legacy builder notes its last step in Image, and leaves the folder / out. BuildKit sets ArgsEscaped,
	// which is for Windows.
	config.Image, config.ArgsEscaped, config.WorkingDir = "", false, cmp.Or(config.WorkingDir, "/")
	return v1.ConfigFile{OS: file.OS, Architecture: file.Architecture, Config: config}
}

// TestMistakes checks that a bad command names all that is wrong, and writes nothing.
func TestMistakes(t *testing.T) {
	t.Parallel()
	exists := t.TempDir()
	err := run([]string{"layout", "-o", exists, "-name", "inject-d"})
	require.EqualError(t, err, `-name is "inject-d", not one of ["inject" "injectd"]
-files is missing
-version is missing
no program is given
-o must be a folder that does not exist`)

	out := filepath.Join(t.TempDir(), "out")
	self, err := os.Executable()
	require.NoError(t, err)
	files := filepath.Join(t.TempDir(), "etc")
	require.NoError(t, os.Mkdir(files, 0o750))
	require.NoError(t, os.WriteFile(filepath.Join(files, "passwd"), nil, 0o600))
	layoutOf := []string{"layout", "-o", out, "-name", "inject", "-version", "v1", "-files", filepath.Dir(files)}
	err = run(append(layoutOf, self))
	require.ErrorContains(t, err, "licenses") // the files have none
	err = run(append(layoutOf, filepath.Join(files, "passwd")))
	require.ErrorContains(t, err, filepath.Join(files, "passwd"))
	require.NoDirExists(t, out)
}
