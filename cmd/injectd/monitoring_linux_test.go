package main_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"inject/internal/harness"
)

const monitoring = "../../deploy/chart/monitoring/"

// scrape returns the metrics of a server by name and labels, and their text.
func scrape(t *testing.T, p *process) (values map[string]float64, text string) {
	t.Helper()
	answer, err := http.Get("http://" + p.ops + "/metrics")
	require.NoError(t, err)
	defer answer.Body.Close() //nolint:errcheck // read whole
	b, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	values = map[string]float64{}
	for line := range strings.Lines(string(b)) {
		if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			v, err := strconv.ParseFloat(strings.TrimSpace(line[i:]), 64)
			require.NoError(t, err)
			values[line[:i]] = v
		}
	}
	return values, string(b)
}

// monitored is a server with all that has a metric.
type monitored struct {
	*harness.Authority

	t      *testing.T
	args   []string
	server *process
}

func startMonitored(t *testing.T) *monitored {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, makePKI(t, filepath.Join(dir, "pki")))
	m := &monitored{Authority: harness.NewAuthority(t, dir), t: t}
	cert, key := m.Issue("monitored", harness.Local, harness.Expires(time.Now().Add(7*time.Hour)))
	m.Issue("platform", m.SPIFFE("spiffe://example.org/platform"))
	m.Issue("other", m.SPIFFE("spiffe://example.org/other"))
	second := harness.NewAuthority(t, filepath.Join(dir, "second")) // expires a moment later
	both, err := os.ReadFile(second.CA())
	require.NoError(t, err)
	first, err := os.ReadFile(m.CA())
	require.NoError(t, err)
	m.write("cas.pem", append(both, first...))
	m.write("crl.der", m.Revoke())
	m.write("policy.yaml", []byte(policyFile))
	m.args = []string{
		"--store", "file://" + m.Path("secrets.db"), "--key-file", m.Path("key.txt"),
		"--cert-file", cert, "--cert-key-file", key, "--client-ca-file", m.Path("cas.pem"),
		"--client-crl-file", m.Path("crl.der"), "--policy", m.Path("policy.yaml"), "--audit-log", m.Path("audit.log"),
		"--jwt", "issuer=https://ci.example.org,audience=inject,keys=pki/jwks.json", "--rate", "1", "--rate-burst", "3",
	}
	m.start()
	return m
}

func (m *monitored) write(name string, b []byte) {
	require.NoError(m.t, os.WriteFile(m.Path(name), b, 0o600))
}

func (m *monitored) start() {
	var err error
	m.server, err = startServer(m.Dir, nil, m.args...)
	require.NoError(m.t, err)
	m.t.Cleanup(func() { _ = m.server.stop(syscall.SIGKILL) })
}

// run runs a program with the store and the key of the server in its environment.
func (m *monitored) run(program string, args ...string) error {
	cmd := exec.Command(filepath.Join(binaries, program), args...)
	cmd.Dir = m.Dir
	cmd.Env = []string{"HOME=" + m.Dir, "INJECT_STORE=" + m.server.store, "INJECT_CA_FILE=" + m.CA()}
	if program == "injectd" {
		cmd.Env = []string{"HOME=" + m.Dir}
	}
	out, err := cmd.CombinedOutput()
	m.t.Logf("%s %v: %v: %s", program, args, err, out)
	return err
}

func (m *monitored) as(name string, args ...string) error {
	return m.run("inject", append(args, "--cert-file", m.Path(name+".pem"), "--cert-key-file", m.Path(name+".key"))...)
}

func (m *monitored) backup(to string) {
	require.NoError(m.t, m.run("injectd", "backup", "--store", "file://"+m.Path("secrets.db"), "--key-file",
		m.Path("key.txt"), to))
}

// TestMetrics compares what a server says of itself with what is so.
func TestMetrics(t *testing.T) {
	m := startMonitored(t)
	values, _ := scrape(t, m.server)
	at := func(name string) float64 {
		t.Helper()
		require.Contains(t, values, name)
		return values[name]
	}
	require.InDelta(t, 1, at(`inject_build_info{goversion="`+runtime.Version()+`",version="v0.0.0-test"}`), 0)
	require.InDelta(t, 1, at("inject_ready"), 0)
	for _, check := range []string{"audit_log", "store_read", "store_write", "certificate", "callers"} {
		require.InDelta(t, 1, at(`inject_ready_check{check="`+check+`"}`), 0)
	}
	require.InDelta(t, time.Now().Add(7*time.Hour).Unix(), at("inject_certificate_expiry_timestamp_seconds"), 600)
	require.InDelta(t, m.Cert.NotAfter.Unix(), at("inject_client_ca_expiry_timestamp_seconds"), 0, "the first of two")
	require.InDelta(t, time.Now().Add(time.Hour).Unix(), at("inject_client_crl_next_update_timestamp_seconds"), 600)
	require.InDelta(t, 0, at("inject_backup_last_success_timestamp_seconds"), 0)
	require.NotContains(t, values, "inject_store_size_bytes", "there is no file yet")
	require.InDelta(t, 0, at("inject_store_secrets"), 0)
	for _, volume := range []string{"store", "audit_log"} {
		size := at(`inject_volume_size_bytes{volume="` + volume + `"}`)
		available := at(`inject_volume_available_bytes{volume="` + volume + `"}`)
		require.Positive(t, available)
		require.Less(t, available, size)
	}

	require.NoError(t, m.as("platform", "create", "secret", "K", "v", "-p", "p", "-d", "d"))
	values, _ = scrape(t, m.server)
	info, err := os.Stat(m.Path("secrets.db"))
	require.NoError(t, err)
	require.InDelta(t, info.Size(), at("inject_store_size_bytes"), 0)
	require.InDelta(t, 1, at("inject_store_secrets"), 0)
	require.InDelta(t, len("v"), at("inject_store_values_bytes"), 0)

	// The time of a backup is known after a restart, and if no server made it.
	began := time.Now().Unix()
	m.backup("first.db")
	values, _ = scrape(t, m.server)
	require.InDelta(t, began, at("inject_backup_last_success_timestamp_seconds"), 60)
	old := time.Unix(1e9, 0)
	require.NoError(t, os.Chtimes(m.Path("secrets.db.backup"), old, old))
	require.NoError(t, m.server.stop(syscall.SIGTERM))
	m.start()
	values, _ = scrape(t, m.server)
	require.InDelta(t, 1e9, at("inject_backup_last_success_timestamp_seconds"), 0)
	require.NoError(t, m.server.stop(syscall.SIGTERM))
	m.backup("second.db")
	m.start()
	values, _ = scrape(t, m.server)
	require.InDelta(t, began, at("inject_backup_last_success_timestamp_seconds"), 60)

	// A change of a file is counted if it cannot be used, and moves the time if it can.
	const loaded = `inject_source_loaded_timestamp_seconds{source="policy"}`
	const failures = `inject_source_reload_failures_total{source="policy"}`
	for _, source := range []string{"cert-file", "cert-key-file", "client-ca-file", "client-crl-file", "policy"} {
		require.InDelta(t, began, at(`inject_source_loaded_timestamp_seconds{source="`+source+`"}`), 60)
	}
	before := at(loaded)
	require.InDelta(t, 0, at(failures), 0)
	m.write("policy.yaml", []byte("rules: 7\n"))
	require.Eventually(t, func() bool {
		values, _ = scrape(t, m.server)
		return values[failures] == 1
	}, time.Minute, 50*time.Millisecond)
	values, _ = scrape(t, m.server) // the metrics of one scrape are read one after the other
	require.InDelta(t, before, at(loaded), 0)
	require.InDelta(t, 1, at(`inject_source_stale{source="policy"}`), 0)
	m.write("policy.yaml", []byte(policyFile+"\n"))
	require.Eventually(t, func() bool {
		values, _ = scrape(t, m.server)
		return values[loaded] > before
	}, time.Minute, 50*time.Millisecond)
	values, _ = scrape(t, m.server)
	require.InDelta(t, 0, at(`inject_source_stale{source="policy"}`), 0)
	require.InDelta(t, 1, at(failures), 0)
}

// named matches the names of metrics in an expression or a page.
var named = regexp.MustCompile(`\b(?:inject|process|go)_[a-z_]+\b|\bup\b`)

// TestMonitoring compares the alert rules, the dashboard and the reference with the metrics of a
// real server, and has promtool check them.
func TestMonitoring(t *testing.T) {
	m := startMonitored(t)
	require.NoError(t, m.as("platform", "create", "secret", "K", "v", "-p", "p", "-d", "d"))
	require.Error(t, m.as("other", "get", "secret"), "denied")
	require.Error(t, m.run("inject", "get", "secret"), "refused")
	for range 10 { // over the rate
		if m.as("platform", "get", "secret") != nil {
			break
		}
	}
	values, text := scrape(t, m.server)
	has := map[string]bool{"up": true} // Prometheus itself adds it
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); words[0] == "#" && words[1] == "TYPE" {
			has[words[2]] = true
			if words[3] == "histogram" {
				has[words[2]+"_bucket"] = true
			}
		}
	}
	require.True(t, has["inject_exhausted_total"], "the rate was exceeded")
	require.InDelta(t, 1, values[`inject_refusals_total{code="unauthenticated"}`], 0)

	var documented []string
	reference, err := os.ReadFile("../../docs/reference/server.md")
	require.NoError(t, err)
	of, _, both := strings.Cut(string(reference), "\n## The webhook\n") // which has metrics of its own
	require.True(t, both)
	for _, row := range regexp.MustCompile("(?m)^\\| `inject_.*$").FindAllString(of, -1) {
		names, _, _ := strings.Cut(row[2:], "|")
		documented = append(documented, named.FindAllString(names, -1)...)
	}
	var own []string
	for name := range has {
		if strings.HasPrefix(name, "inject_") && !strings.HasSuffix(name, "_bucket") {
			own = append(own, name)
		}
	}
	require.ElementsMatch(t, documented, own, "docs/reference/server.md")

	// TestCertificatesAtStart compares these with a server that has them.
	certificates, err := os.ReadFile("../../docs/reference/certificates.md")
	require.NoError(t, err)
	for _, name := range regexp.MustCompile("inject_certificates_[a-z_]+").FindAllString(string(certificates), -1) {
		has[name] = true
	}
	exprs := append(alertExprs(t), dashboardExprs(t)...)
	for _, expr := range exprs {
		names := named.FindAllString(expr, -1)
		require.NotEmpty(t, names, expr)
		for _, name := range names {
			require.True(t, has[name], "%s in %s", name, expr)
		}
	}
	require.NotContains(t, has, "inject_no_such_metric")

	promtool := harness.Need(t, "promtool")
	check := func(input string, args ...string) {
		t.Helper()
		cmd := exec.Command(promtool, args...)
		cmd.Dir, cmd.Stdin = monitoring, strings.NewReader(input)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "promtool %v: %s", args, out)
	}
	check(text, "check", "metrics")
	check("", "check", "rules", "alerts.yaml")
	check("", "test", "rules", "alerts_test.yaml")
	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	for i, expr := range dashboardExprs(t) {
		b, err := json.Marshal(strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*").Replace(expr))
		require.NoError(t, err)
		rules.WriteString("  - {record: 'panel:" + strconv.Itoa(i) + "', expr: " + string(b) + "}\n")
	}
	m.write("dashboard.yaml", []byte(strings.ReplaceAll(rules.String(), "panel:", "panel_")))
	check("", "check", "rules", m.Path("dashboard.yaml"))
}

// alertExprs returns the expressions of the alert rules. Each alert has tests in which it fires
// and in which it does not.
func alertExprs(t *testing.T) (exprs []string) {
	t.Helper()
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	var tests struct {
		Tests []struct {
			Rules []struct {
				Alert string           `yaml:"alertname"`
				Fires []map[string]any `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	for name, into := range map[string]any{"alerts.yaml": &rules, "alerts_test.yaml": &tests} {
		b, err := os.ReadFile(monitoring + name)
		require.NoError(t, err)
		require.NoError(t, yaml.Unmarshal(b, into))
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, one := range tests.Tests {
		for _, r := range one.Rules {
			if len(r.Fires) > 0 {
				fires[r.Alert] = true
			} else {
				silent[r.Alert] = true
			}
		}
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			exprs = append(exprs, r.Expr)
			require.True(t, fires[r.Alert], "no test in which %s fires", r.Alert)
			require.True(t, silent[r.Alert], "no test in which %s does not fire", r.Alert)
		}
	}
	return exprs
}

// dashboardExprs returns the expressions of the dashboard, which can be imported anywhere: it names
// no data source but the variable for one.
func dashboardExprs(t *testing.T) (exprs []string) {
	t.Helper()
	type source struct{ Type, UID string }
	var d struct {
		Title, UID string
		Templating struct {
			List []struct{ Name, Type string }
		}
		Panels []struct {
			ID         int
			Title      string
			Datasource source
			GridPos    struct{ X, Y, W, H int }
			Targets    []struct {
				Expr       string
				Datasource source
			}
		}
	}
	b, err := os.ReadFile(monitoring + "dashboard.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &d))
	require.NotEmpty(t, d.Title)
	require.True(t, slices.ContainsFunc(d.Templating.List, func(v struct{ Name, Type string }) bool {
		return v.Name == "datasource" && v.Type == "datasource"
	}))
	want := source{"prometheus", "${datasource}"}
	ids, cells := map[int]bool{}, map[[2]int]bool{}
	for _, p := range d.Panels {
		require.False(t, ids[p.ID], p.Title)
		ids[p.ID] = true
		require.Equal(t, want, p.Datasource, p.Title)
		require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, p.Title)
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				cell := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				require.False(t, cells[cell], "%s covers another panel", p.Title)
				cells[cell] = true
			}
		}
		for _, target := range p.Targets {
			require.Equal(t, want, target.Datasource, p.Title)
			exprs = append(exprs, target.Expr)
		}
	}
	require.Greater(t, len(exprs), 10)
	return exprs
}
