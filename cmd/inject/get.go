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
task reads them.

-o name prints for each secret the arguments that name it beside the same -p and -d, for
xargs -L1. -o wide adds columns.`,
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
			err = elsewhere(cmd, s, ref, err, "inject get secret ")
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
	case "table", "wide":
		if len(infos) == 0 {
			none := "there are no secrets at these scopes"
			if path := a.ownStoreMissing(); path != "" {
				none = "there is no store at " + path
			}
			a.say(none + "; inject create secret NAME stores one")
		}
		return printTable(a.stdout, infos, output == "wide")
	case "name":
		for _, info := range infos {
			more := secret.Scope{Org: secret.DefaultOrg} // what the given flags do not say
			if scope.Project == "" {
				more.Project = info.Ref.Project
			}
			if scope.Domain == "" {
				more.Domain = info.Ref.Domain
			}
			if _, err := fmt.Fprintln(a.stdout, info.Ref.Key+more.Flags()); err != nil {
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

// printTable prints what fits a terminal of 80 columns, and with wide the columns of Flyte's table,
// too. Flyte's messages do not tell when a value was changed, so a server's secrets have no such
// time: then they are shown with the time of their creation.
func printTable(w io.Writer, infos []store.Info, wide bool) error {
	updated := func(info store.Info) bool { return !info.Updated.IsZero() }
	changes := len(infos) == 0 || slices.ContainsFunc(infos, updated)
	var b strings.Builder
	row := func(project, domain, name, typ, created, updated, status, cluster string) {
		cells := []string{project, domain, name, typ}
		if wide || changes {
			cells = append(cells, updated)
		}
		if wide || !changes {
			cells = append(cells, created)
		}
		if wide {
			cells = append(cells, status, cluster)
		}
		b.WriteString(strings.Join(cells, "\t") + "\n")
	}
	row("PROJECT", "DOMAIN", "NAME", "TYPE", "CREATED_TIME", "UPDATED_TIME", "STATUS", "CLUSTER_STATUS")
	for _, info := range infos {
		row(cmp.Or(info.Ref.Project, "-"), cmp.Or(info.Ref.Domain, "-"), info.Ref.Key, info.Type.String(),
			cmp.Or(timeText(info.Created, time.RFC3339), "-"), cmp.Or(timeText(info.Updated, time.RFC3339), "-"),
			fullyPresent, "-")
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if _, err := io.WriteString(t, b.String()); err != nil {
		return err
	}
	return t.Flush()
}

// timeText returns a time in UTC, "" for none.
func timeText(t time.Time, format string) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(format)
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
		// UpdatedTime is not of Flyte's message, and left out where it is not known.
		UpdatedTime string `json:"updatedTime,omitempty" yaml:"updatedTime,omitempty"`
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
	m.Metadata.UpdatedTime = timeText(info.Updated, time.RFC3339Nano)
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
