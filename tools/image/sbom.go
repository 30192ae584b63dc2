package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/licensecheck"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
	_ "golang.org/x/crypto/x509roots/fallback/bundle" // for ownModule, which finds what is linked
)

// rootsModule is the module that the image's CA certificates are from.
const rootsModule = "golang.org/x/crypto/x509roots/fallback"

// document returns the SBOM of an image: the program, Go's standard library and the modules that the
// program is linked from, by its own build information, and the module of the CA certificates. Their
// licenses are those of the files in r.files/licenses.
func (r release) document(program string, info *debug.BuildInfo, platform v1.Platform) (*v2_3.Document, error) {
	content, err := os.ReadFile(program) //nolint:gosec // the command line names the file
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])
	main := &v2_3.Package{
		PackageName:             r.name,
		PackageSPDXIdentifier:   "Package-" + common.ElementID(r.name),
		PackageVersion:          r.version,
		PackageFileName:         "/" + r.name,
		PackageDownloadLocation: cmp.Or(r.source, "NOASSERTION"),
		PackageChecksums:        []common.Checksum{{Algorithm: common.SHA256, Value: digest}},
		PackageLicenseConcluded: licenses,
		PackageLicenseDeclared:  licenses,
		PackageCopyrightText:    "NOASSERTION",
		PrimaryPackagePurpose:   "APPLICATION",
	}
	document := &v2_3.Document{
		SPDXVersion:       v2_3.Version,
		DataLicense:       v2_3.DataLicense,
		SPDXIdentifier:    "DOCUMENT",
		DocumentName:      r.name,
		DocumentNamespace: fmt.Sprintf("https://spdx.org/spdxdocs/%s-%s-%s", r.name, platform.Architecture, digest),
		CreationInfo: &v2_3.CreationInfo{
			Creators: []common.Creator{{CreatorType: "Tool", Creator: "inject-tools-image"}},
			Created:  r.created.Format(time.RFC3339),
		},
		Packages: []*v2_3.Package{main},
		Relationships: []*v2_3.Relationship{
			relate("DOCUMENT", common.TypeRelationshipDescribe, main.PackageSPDXIdentifier),
		},
	}

	modules := []*debug.Module{{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}}
	for _, module := range info.Deps {
		for module.Replace != nil {
			module = module.Replace
		}
		modules = append(modules, module)
	}
	roots, err := ownModule(rootsModule)
	if err != nil {
		return nil, err
	}
	modules = append(modules, roots)
	for _, module := range modules {
		one, unlisted, err := r.dependency(module)
		if err != nil {
			return nil, fmt.Errorf("module %s: %w", module.Path, err)
		}
		if unlisted != nil {
			document.OtherLicenses = append(document.OtherLicenses, unlisted)
		}
		document.Packages = append(document.Packages, one)
		document.Relationships = append(document.Relationships,
			relate(main.PackageSPDXIdentifier, common.TypeRelationshipDependsOn, one.PackageSPDXIdentifier))
	}
	return document, nil
}

func relate(a common.ElementID, how string, b common.ElementID) *v2_3.Relationship {
	return &v2_3.Relationship{
		RefA:         common.DocElementID{ElementRefID: a},
		RefB:         common.DocElementID{ElementRefID: b},
		Relationship: how,
	}
}

// dependency returns the package of a module, and the text of its license if SPDX lists none like it.
func (r release) dependency(module *debug.Module) (*v2_3.Package, *v2_3.OtherLicense, error) {
	folder, source := module.Path, "https://proxy.golang.org/"+module.Path+"/@v/"+module.Version+".zip"
	if module.Path == "stdlib" { // the name that scanners use
		folder, source = "std", "https://go.dev/dl/go"+module.Version+".src.tar.gz"
	}
	license, text, err := licenseOf(filepath.Join(r.files, "licenses", filepath.FromSlash(folder)))
	if err != nil {
		return nil, nil, err
	}
	id := notInID.ReplaceAllString(module.Path, "-")
	var unlisted *v2_3.OtherLicense
	if license == "" {
		license = "LicenseRef-" + id
		unlisted = &v2_3.OtherLicense{LicenseIdentifier: license, ExtractedText: text, LicenseName: "NOASSERTION"}
	}
	one := &v2_3.Package{
		PackageName:             module.Path,
		PackageSPDXIdentifier:   "Package-" + common.ElementID(id),
		PackageVersion:          module.Version,
		PackageDownloadLocation: source,
		PackageLicenseConcluded: license,
		PackageLicenseDeclared:  license,
		PackageCopyrightText:    "NOASSERTION",
		PrimaryPackagePurpose:   "LIBRARY",
		PackageExternalReferences: []*v2_3.PackageExternalReference{{
			Category: common.CategoryPackageManager,
			RefType:  common.TypePackageManagerPURL,
			Locator:  "pkg:golang/" + strings.ToLower(module.Path) + "@" + url.QueryEscape(module.Version),
		}},
	}
	if module.Sum != "" {
		one.PackageSourceInfo = "go.sum has " + module.Sum
	}
	return one, unlisted, nil
}

// notInID matches what the identifiers of SPDX may not have.
var notInID = regexp.MustCompile(`[^a-zA-Z0-9.-]`)

// licenseOf returns the licenses in the files of folder as an expression of SPDX, which is empty if none
// is on its list, and the text of the files.
func licenseOf(folder string) (license, text string, err error) {
	files, err := os.ReadDir(folder)
	if err != nil {
		return "", "", err
	}
	var found []string
	for _, file := range files {
		if file.IsDir() { // of a module whose path begins with this one's
			continue
		}
		content, err := os.ReadFile(filepath.Join(folder, file.Name())) //nolint:gosec // a folder that we were given
		if err != nil {
			return "", "", err
		}
		text += string(content)
		for _, match := range licensecheck.Scan(content).Match {
			// A link to a license is not the license, and Google's grant of patents comes beside one.
			if !match.IsURL && !strings.HasPrefix(match.ID, "GooglePatent") {
				found = append(found, match.ID)
			}
		}
	}
	if text == "" {
		return "", "", fmt.Errorf("%s has no license", folder)
	}
	slices.Sort(found)
	return strings.Join(slices.Compact(found), " AND "), text, nil
}

// ownModule returns the module with this path that this program itself was built with.
func ownModule(path string) (*debug.Module, error) {
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, module := range info.Deps {
			if module.Path == path {
				return module, nil
			}
		}
	}
	return nil, fmt.Errorf("this program was built without the module %s", path)
}
