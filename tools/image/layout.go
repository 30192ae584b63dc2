package main

import (
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// user is the user and group of the processes in the images of a release.
const user = 65532

// searchPath is what BuildKit sets in an image without a base.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// configs are the configurations of the images of a release, by name. They are those of the Dockerfile,
// which has the reasons; TestDocker compares them.
var configs = map[string]v1.Config{
	"inject": {
		User:       "65532:65532",
		Entrypoint: []string{"/inject"},
		Env:        []string{searchPath},
		WorkingDir: "/",
	},
	"injectd": {
		User:       "65532:65532",
		Entrypoint: []string{"/injectd"},
		Cmd:        []string{"serve"},
		Env: []string{
			searchPath, "XDG_DATA_HOME=/var/lib", "XDG_CONFIG_HOME=/var/lib",
			"INJECTD_LISTEN=:8093", "INJECTD_OPS_LISTEN=:8094",
		},
		WorkingDir:   "/",
		ExposedPorts: map[string]struct{}{"8093/tcp": {}, "8094/tcp": {}},
		Volumes:      map[string]struct{}{"/var/lib/inject": {}},
		Healthcheck: &v1.HealthConfig{
			Test:     []string{"CMD", "/injectd", "health"},
			Interval: 10 * time.Second,
			Timeout:  10 * time.Second,
		},
	},
}

// licenses is the license of inject, as an expression of SPDX.
const licenses = "Apache-2.0"

// A release is what the images of one release have in common.
type release struct {
	name                      string // of the image and its program
	files                     string // a folder with the files of the image besides the program
	version, revision, source string // annotations; empty ones are left out
	created                   time.Time
}

func runLayout(args []string) error {
	var r release
	flags := newFlags("layout")
	out := flags.String("o", "", "the `FOLDER` to write, which must not exist")
	created := flags.Int64("created", 0, "the time of the commit, in `SECONDS` since 1970")
	flags.StringVar(&r.name, "name", "", "the image's `NAME`: inject or injectd")
	flags.StringVar(&r.files, "files", "", "the `FOLDER` with the image's other files")
	flags.StringVar(&r.version, "version", "", "the `VERSION`, which is also the layout's tag")
	flags.StringVar(&r.revision, "revision", "", "the `COMMIT`")
	flags.StringVar(&r.source, "source", "", "the `URL` of the source")
	if err := flags.Parse(args); err != nil {
		return err
	}
	r.created = time.Unix(*created, 0).UTC()
	var errs []error
	if _, ok := configs[r.name]; !ok {
		errs = append(errs, fmt.Errorf("-name is %q, not one of %q", r.name, slices.Sorted(maps.Keys(configs))))
	}
	if r.files == "" {
		errs = append(errs, errors.New("-files is missing"))
	}
	if r.version == "" {
		errs = append(errs, errors.New("-version is missing"))
	}
	if flags.NArg() == 0 {
		errs = append(errs, errors.New("no program is given"))
	}
	if _, err := os.Lstat(*out); *out == "" || err == nil {
		errs = append(errs, errors.New("-o must be a folder that does not exist"))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	index, err := r.index(flags.Args())
	if err != nil {
		return err
	}
	path, err := layout.Write(*out, empty.Index)
	if err != nil {
		return err
	}
	// The only entry, because crane takes the image of a layout only if it has one.
	return path.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": r.version,
	}))
}

// annotations are those that OCI defines, which registries and scanners show.
func (r release) annotations() map[string]string {
	annotations := map[string]string{
		"org.opencontainers.image.title":    r.name,
		"org.opencontainers.image.licenses": licenses,
		"org.opencontainers.image.created":  r.created.Format(time.RFC3339),
		"org.opencontainers.image.version":  r.version,
		"org.opencontainers.image.revision": r.revision,
		"org.opencontainers.image.source":   r.source,
	}
	maps.DeleteFunc(annotations, func(_, value string) bool { return value == "" })
	return annotations
}

// index returns the image index with an image for each program, and the SBOM of each image.
func (r release) index(programs []string) (v1.ImageIndex, error) {
	files := layer{}
	if err := files.files(r.files); err != nil {
		return nil, err
	}
	base, err := files.archive(gzip.DefaultCompression)
	if err != nil {
		return nil, err
	}
	var images, sboms []mutate.IndexAddendum
	for _, program := range programs {
		image, sbom, err := r.image(base, program)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", program, err)
		}
		images, sboms = append(images, image), append(sboms, sbom)
	}
	// The SBOMs come last, as BuildKit has them, for clients that take the first entry.
	index := mutate.AppendManifests(empty.Index, append(images, sboms...)...)
	annotated, ok := mutate.Annotations(index, r.annotations()).(v1.ImageIndex)
	if !ok {
		return nil, errors.New("annotations: not an index")
	}
	return annotated, nil
}

// image returns the image of program, for the platform that program was built for, and its SBOM.
func (r release) image(base v1.Layer, program string) (image, sbom mutate.IndexAddendum, err error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return image, sbom, err
	}
	platform := v1.Platform{}
	for _, setting := range info.Settings {
		switch setting.Key {
		case "GOOS":
			platform.OS = setting.Value
		case "GOARCH":
			platform.Architecture = setting.Value
		}
	}
	if platform.OS != "linux" {
		return image, sbom, fmt.Errorf("it was built for %q, but images are for linux", platform.OS)
	}
	own := layer{}
	if err := own.file(program, r.name); err != nil {
		return image, sbom, err
	}
	if r.name == "injectd" { // the store and its key
		if err := own.folder("var/lib/inject", user); err != nil {
			return image, sbom, err
		}
	}
	top, err := own.archive(gzip.DefaultCompression)
	if err != nil {
		return image, sbom, err
	}
	config := configs[r.name]
	config.Labels = map[string]string{
		"org.opencontainers.image.title":    r.name,
		"org.opencontainers.image.licenses": licenses,
	}
	built, err := newImage(v1.ConfigFile{
		Architecture: platform.Architecture,
		Created:      v1.Time{Time: r.created},
		Config:       config,
	}, base, top)
	if err != nil {
		return image, sbom, err
	}
	built = mutate.ConfigMediaType(mutate.MediaType(built, types.OCIManifestSchema1), types.OCIConfigJSON)
	annotated, ok := mutate.Annotations(built, r.annotations()).(v1.Image)
	if !ok {
		return image, sbom, errors.New("annotations: not an image")
	}
	subject, err := partial.Descriptor(annotated)
	if err != nil {
		return image, sbom, err
	}
	subject.ArtifactType = "" // the library fills it in for images, too, where OCI has none
	document, err := r.document(program, info, platform)
	if err != nil {
		return image, sbom, fmt.Errorf("sbom: %w", err)
	}
	attested, err := attest(*subject, r.name, document)
	if err != nil {
		return image, sbom, fmt.Errorf("sbom: %w", err)
	}
	image = mutate.IndexAddendum{Add: annotated, Descriptor: v1.Descriptor{Platform: &platform}}
	sbom = mutate.IndexAddendum{Add: attested, Descriptor: v1.Descriptor{
		// A platform that no node has, so that no node takes it for its image.
		Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"},
		Annotations: map[string]string{
			"vnd.docker.reference.type":   "attestation-manifest",
			"vnd.docker.reference.digest": subject.Digest.String(),
		},
		ArtifactType: attestationType,
	}}
	return image, sbom, nil
}

// Types of an SBOM's manifest and of its content, as in
// https://docs.docker.com/build/metadata/attestations/attestation-storage/.
const (
	attestationType = "application/vnd.docker.attestation.manifest.v1+json"
	inTotoType      = "application/vnd.in-toto+json"
	spdxType        = "https://spdx.dev/Document"
)

// A statement says that a predicate holds for its subjects
// (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md).
type statement struct {
	Type          string      `json:"_type"`
	Subject       []statedFor `json:"subject"`
	PredicateType string      `json:"predicateType"`
	Predicate     any         `json:"predicate"`
}

type statedFor struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// An attestation is a manifest that says something about the image that is its subject. It is in the index
// with the image, as BuildKit does it with oci-artifact=true: each tool that copies the index copies it,
// and a registry lists it among the referrers of the image.
type attestation struct {
	manifest []byte
	content  v1.Layer
}

// attest returns the attestation that document is the SBOM of subject.
func attest(subject v1.Descriptor, name string, document any) (v1.Image, error) {
	content, err := json.Marshal(statement{
		Type:          "https://in-toto.io/Statement/v1",
		Subject:       []statedFor{{name, map[string]string{subject.Digest.Algorithm: subject.Digest.Hex}}},
		PredicateType: spdxType,
		Predicate:     document,
	})
	if err != nil {
		return nil, err
	}
	blob := static.NewLayer(content, inTotoType)
	described, err := partial.Descriptor(blob)
	if err != nil {
		return nil, err
	}
	described.Annotations = map[string]string{"in-toto.io/predicate-type": spdxType}
	digest, size, err := v1.SHA256(bytes.NewReader(emptyConfig))
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		ArtifactType:  attestationType,
		Config:        v1.Descriptor{MediaType: types.OCIEmptyJSON, Digest: digest, Size: size, Data: emptyConfig},
		Layers:        []v1.Descriptor{*described},
		Subject:       &subject,
	})
	if err != nil {
		return nil, err
	}
	return partial.CompressedToImage(attestation{manifest, blob})
}

// emptyConfig is the configuration of a manifest that needs none.
var emptyConfig = []byte("{}")

func (attestation) RawConfigFile() ([]byte, error) { return emptyConfig, nil }

func (attestation) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

func (a attestation) RawManifest() ([]byte, error) { return a.manifest, nil }

func (a attestation) LayerByDigest(v1.Hash) (partial.CompressedLayer, error) { return a.content, nil }
