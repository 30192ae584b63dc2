package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"inject/resolver/secret"
	"inject/resolver/store"
)

func getCommand(app *app) *cobra.Command {
	a := &secretsVerb{app: app}
	cmd := &cobra.Command{
		Use:   "secret [NAME]",
		Short: "List secrets, or show one; never a value",
		Long: `List the secrets at the scopes that -p and -d select, or at all scopes without them. With
NAME show the secret of that name at exactly this scope. Values are never shown: only a
task reads them.`,
		Example: `  inject get secret
  inject get secret -p my_project -d development
  inject get secret MY_SECRET_KEY -o json`,
		Args:              atMost(1),
		ValidArgsFunction: a.completeKeys,
	}
	a.settings.AddFlags(cmd, &a.set.Get, &a.set.Scope, &a.set.Store)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.get(cmd, args, a.set.Get.Output) }
	return verb("get", "List secrets, or show one; never a value", cmd)
}

func (a *secretsVerb) get(cmd *cobra.Command, args []string, output string) error {
	scope, err := a.scope()
	if err != nil {
		return err
	}
	s, err := a.openReader(cmd.Context())
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // read only

	var infos []store.Info
	if len(args) == 1 {
		ref := secret.Ref{Scope: scope, Key: args[0]}
		info, err := s.Describe(cmd.Context(), ref)
		if errors.Is(err, secret.ErrNotFound) {
			err = elsewhere(cmd, s, ref, err, "inject get secret "+ref.Key)
		}
		if err != nil {
			return err
		}
		infos = append(infos, info)
	} else {
		for info, err := range store.All(cmd.Context(), s, within(scope)) {
			if err != nil {
				return err
			}
			infos = append(infos, info)
		}
	}

	slices.SortFunc(infos, func(x, y store.Info) int {
		return cmp.Or(strings.Compare(x.Ref.Project, y.Ref.Project), strings.Compare(x.Ref.Domain, y.Ref.Domain),
			strings.Compare(x.Ref.Key, y.Ref.Key))
	})

	switch output {
	case "table":
		if len(infos) == 0 {
			a.say("there are no secrets at these scopes; inject create secret NAME stores one")
		}
		return printTable(a.stdout, infos)
	case "name":
		for _, info := range infos {
			if _, err := fmt.Fprintln(a.stdout, info.Ref.Key); err != nil {
				return err
			}
		}
		return nil
	}

	messages := make([]secretMessage, len(infos))
	for i, info := range infos {
		messages[i] = toMessage(info)
	}
	if len(args) == 1 {
		return printAs(a.stdout, output, messages[0])
	}
	return printAs(a.stdout, output, messages)
}

// printTable prints the columns of Flyte's table.
func printTable(w io.Writer, infos []store.Info) error {
	var b strings.Builder
	b.WriteString("PROJECT\tDOMAIN\tNAME\tTYPE\tCREATED_TIME\tSTATUS\tCLUSTER_STATUS\n")
	for _, info := range infos {
		fmt.Fprintf(&b, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", cmp.Or(info.Ref.Project, "-"), cmp.Or(info.Ref.Domain, "-"),
			info.Ref.Key, info.Type, info.Created.UTC().Format(time.RFC3339), fullyPresent, "-")
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if _, err := io.WriteString(t, b.String()); err != nil {
		return err
	}
	return t.Flush()
}

// fullyPresent is Flyte's status of a secret that all clusters have; a store is one place.
const fullyPresent = "FULLY_PRESENT"

// secretMessage is flyteidl2.secret.Secret in the JSON form of protobuf, so that programs that
// read Flyte's lists can read these.
type secretMessage struct {
	ID struct {
		Name         string `json:"name" yaml:"name"`
		Organization string `json:"organization" yaml:"organization"`
		Domain       string `json:"domain,omitempty" yaml:"domain,omitempty"`
		Project      string `json:"project,omitempty" yaml:"project,omitempty"`
	} `json:"id" yaml:"id"`
	Metadata struct {
		CreatedTime string `json:"createdTime" yaml:"createdTime"`
		Status      struct {
			Overall string `json:"overallStatus" yaml:"overallStatus"`
		} `json:"secretStatus" yaml:"secretStatus"`
		Type string `json:"type" yaml:"type"`
	} `json:"secretMetadata" yaml:"secretMetadata"`
}

func toMessage(info store.Info) (m secretMessage) {
	m.ID.Name, m.ID.Organization = info.Ref.Key, info.Ref.Org
	m.ID.Domain, m.ID.Project = info.Ref.Domain, info.Ref.Project
	m.Metadata.CreatedTime = info.Created.UTC().Format(time.RFC3339Nano)
	m.Metadata.Status.Overall = fullyPresent
	m.Metadata.Type = "SECRET_TYPE_GENERIC"
	if info.Type == store.ImagePull {
		m.Metadata.Type = "SECRET_TYPE_IMAGE_PULL_SECRET"
	}
	return m
}

// printAs prints v as json or yaml.
func printAs(w io.Writer, format string, v any) error {
	if format == "yaml" {
		return yaml.NewEncoder(w).Encode(v)
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
