package chart_test

import (
	"crypto/sha256"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"inject/internal/harness"
)

// everyValue has for each value of values.yaml another one, as YAML of the whole values, and what the chart
// renders with it and does not render without it.
var everyValue = map[string]struct{ set, want string }{
	"taskNamespaces":    {`taskNamespaces: [other]`, "namespace: other\n"},
	"secretsNamespace":  {`secretsNamespace: other`, "--store=kube://other\n"},
	"organization":      {`organization: other`, "--org=other\n"},
	"claimers.accounts": {`claimers: {accounts: [{namespace: n, name: other}]}`, "name: other}\n"},
	"claimers.controllers": {
		`claimers: {controllers: [cronjob-controller]}`, "name: cronjob-controller}",
	},
	"claimers.operators": {`claimers: {operators: [{namespace: n, name: o, apiGroups: [other.io]}]}`, "other.io"},
	"policies.enforce":   {`policies: {enforce: audit}`, "- Audit\n"},
	"policies.objects":   {`policies: {objects: false}`, ""},
	"policies.hosts":     {`policies: {hosts: false}`, `resources: [namespaces], verbs: [list]`},
	"policies.exec":      {`policies: {exec: false}`, ""},
	"policies.acceptUnprotected": {
		`policies: {acceptUnprotected: true}`, "--kube-accept-unprotected\n",
	},
	"policies.injected": {`policies: {injected: false}`, ""},
	"mutation.mode":     {`mutation: {mode: webhook}`, "name: inject-mutation\n"},
	"mutation.delivery": {`mutation: {delivery: image}`, `"image": dyn({"pullPolicy": dyn("IfNotPresent")`},
	"mutation.coexist":  {`mutation: {coexist: true}`, `r'^/*(inject|run/+inject)(/.*)?$'`},
	"mutation.outputs":  {`mutation: {outputs: [/other]}`, `['--outputs', "/other"]`},
	"mutation.storage":  {`mutation: {storage: off}`, `"--storage","off"]`},
	"mutation.entrypoints": {
		`mutation: {entrypoints: [{image: "a:", command: [b]}]}`, `startsWith("a:") ? optional.of(["b"])`,
	},
	"mutation.pythonEntrypoint": {`mutation: {pythonEntrypoint: deny}`, "variables.runtime ? optional.none() :"},
	"mutation.rawEntrypoint":    {`mutation: {rawEntrypoint: deny}`, ""},
	"mutation.pullSecret":       {`mutation: {pullSecret: other}`, `value: {'name': "other"}`},
	"mutation.resources": {
		`mutation: {resources: {limits: {memory: 1Gi}}}`, `"limits": dyn({"memory": dyn("1Gi")})`,
	},
	"serviceAccount.name":      {`serviceAccount: {name: other}`, "serviceAccountName: other\n"},
	"images.registry":          {`images: {registry: other.test/x/}`, "image: other.test/x/injectd:0.1.0\n"},
	"images.tag":               {`images: {tag: v9}`, "image: inject.test/injectd:v9\n"},
	"images.inject.repository": {`images: {inject: {repository: a/other}}`, `"image": dyn("inject.test/a/other:0.1.0")`},
	"images.inject.digest": {
		`images: {inject: {digest: "sha256:` + sixtyFour + `"}}`,
		`"image": dyn("inject.test/inject@sha256:` + sixtyFour + `")`,
	},
	"images.injectd.repository": {`images: {injectd: {repository: a/other}}`, "image: inject.test/a/other:0.1.0\n"},
	"images.injectd.digest": {
		`images: {injectd: {digest: "sha256:` + sixtyFour + `"}}`,
		"image: inject.test/injectd@sha256:" + sixtyFour + "\n",
	},
	"images.pullPolicy":  {`images: {pullPolicy: Always}`, "imagePullPolicy: Always\n"},
	"images.pullSecrets": {`images: {pullSecrets: [{name: other}]}`, `imagePullSecrets: [{"name":"other"}]`},
	"clusterDomain": {
		`{clusterDomain: other.test, networkPolicy: {from: [{podSelector: {}}]},
		route: {gateway: {enabled: true, parents: [{name: g, sectionName: s}]}}}`,
		"hostname: injectd.inject-system.svc.other.test\n",
	},
	"createSecretsNamespace": {`createSecretsNamespace: false`, ""},
	"labels":                 {`labels: {team: platform}`, "team: platform\n"},
	"injectd.replicas":       {`injectd: {replicas: 5}`, "replicas: 5\n"},
	"injectd.logLevel":       {`injectd: {logLevel: debug}`, "--log-level=debug\n"},
	"injectd.extraArgs":      {`injectd: {extraArgs: [--rate=1000]}`, "- --rate=1000\n"},
	"injectd.files": {
		`injectd: {files: [{mountPath: /etc/more, configMap: more}]}`,
		"{name: files-0, mountPath: /etc/more, readOnly: true}",
	},
	"injectd.resources": {`injectd: {resources: {requests: {cpu: 2}}}`, `"cpu":2`},
	"injectd.podLabels": {`injectd: {podLabels: {team: platform}}`, "team: platform\n"},
	"injectd.podAnnotations": {
		`injectd: {podAnnotations: {sidecar.istio.io/inject: "false"}}`,
		`sidecar.istio.io/inject: "false"`,
	},
	"injectd.nodeSelector": {`injectd: {nodeSelector: {pool: system}}`, `nodeSelector: {"pool":"system"}`},
	"injectd.tolerations": {
		`injectd: {tolerations: [{key: k, operator: Exists}]}`,
		`tolerations: [{"key":"k","operator":"Exists"}]`,
	},
	"injectd.affinity": {
		`injectd: {affinity: {nodeAffinity: {x: y}}}`,
		"nodeAffinity:\n          x: \"y\"\n",
	},
	"injectd.spread": {`injectd: {spread: DoNotSchedule}`, "whenUnsatisfiable: DoNotSchedule\n"},
	"injectd.priorityClassName": {
		`injectd: {priorityClassName: system-cluster-critical}`,
		"priorityClassName: system-cluster-critical\n",
	},
	"webhook.replicas":        {webhookValues + `replicas: 5}}`, "replicas: 5\n"},
	"webhook.logLevel":        {webhookValues + `logLevel: debug}}`, "--log-level=debug\n"},
	"webhook.resources":       {webhookValues + `resources: {requests: {cpu: 2}}}}`, `"cpu":2`},
	"webhook.annotations":     {webhookValues + `annotations: {a.test/b: c}}}`, "a.test/b: c\n"},
	"webhook.hostNetwork":     {webhookValues + `hostNetwork: true}}`, "hostNetwork: true\n"},
	"service.type":            {`service: {type: LoadBalancer}`, "type: LoadBalancer\n"},
	"service.annotations":     {`service: {annotations: {a.test/b: c}}`, "a.test/b: c\n"},
	"certificates.source":     {`certificates: {source: cert-manager}`, "kind: Issuer\n"},
	"certificates.secretName": {`certificates: {secretName: other}`, "secret: other\n"},
	"certificates.leaf":       {`certificates: {leaf: 500h}`, `"leaf":"500h"`},
	"certificates.renew":      {`certificates: {renew: 100h}`, `"renew":"100h"`},
	"certificates.authority":  {`certificates: {authority: 9000h}`, `"authority":"9000h"`},
	"certificates.publish":    {`certificates: {publish: 24h}`, `"publish":"24h"`},
	"policy.rules":            {`policy: {rules: [{name: other, identity: {token: t}}]}`, "name: other\n"},
	"policy.also":             {`policy: {also: [OTHER]}`, "- OTHER\n"},
	"oidc": {
		`oidc: {issuer: "https://i.test", audience: a, keys: "https://i.test/k", caFile: /etc/ca/ca.crt,
		clientId: c, scopes: [openid, s]}`,
		`- "--jwt=issuer=https://i.test,audience=a,keys=https://i.test/k,ca=/etc/ca/ca.crt"
        - --login=client-id=c,scopes=openid+s
`,
	},
	"networkPolicy.enabled": {`networkPolicy: {enabled: false}`, ""},
	"networkPolicy.from":    {`networkPolicy: {from: [{ipBlock: {cidr: 10.0.0.0/8}}]}`, "cidr: 10.0.0.0/8\n"},
	"networkPolicy.webhookFrom": {
		`{mutation: {mode: webhook}, networkPolicy: {webhookFrom: [{ipBlock: {cidr: 172.16.0.0/28}}]}}`,
		"    - ipBlock:\n        cidr: 172.16.0.0/28\n",
	},
	"networkPolicy.opsFrom": {`networkPolicy: {opsFrom: [{namespaceSelector: {}}]}`, "- ports: [{port: ops}]\n"},
	"networkPolicy.egress": {
		`networkPolicy: {egress: [{ports: [{port: 6443}]}]}`,
		"policyTypes: [Ingress, Egress]\n",
	},
	"networkPolicy.taskEgress": {
		`networkPolicy: {taskEgress: true}`, "name: inject-tasks\n",
	},
	"monitoring.serviceMonitor.enabled": {`monitoring: {serviceMonitor: {enabled: true}}`, "kind: ServiceMonitor\n"},
	"monitoring.serviceMonitor.interval": {
		`monitoring: {serviceMonitor: {enabled: true, interval: 7s}}`, "interval: 7s}",
	},
	"monitoring.serviceMonitor.labels": {
		`monitoring: {serviceMonitor: {enabled: true, labels: {release: other}}}`, "release: other\n",
	},
	"monitoring.rules.enabled": {`monitoring: {rules: {enabled: true}}`, "alert: InjectdDown\n"},
	"monitoring.rules.labels": {
		`monitoring: {rules: {enabled: true, labels: {release: other}}}`,
		"release: other\n",
	},
	"monitoring.dashboard.enabled": {`monitoring: {dashboard: {enabled: true}}`, "injectd.json: |"},
	"monitoring.dashboard.labels.grafana_dashboard": {
		`monitoring: {dashboard: {enabled: true, labels: {grafana_dashboard: other}}}`, "grafana_dashboard: other\n",
	},
	"route.gateway.enabled":     {gateway + `}}}`, "kind: HTTPRoute\n"},
	"route.gateway.parents":     {gateway + `}}}`, `parentRefs: [{"name":"g","sectionName":"s"}]`},
	"route.gateway.hostnames":   {gateway + `, hostnames: [flyte.test]}}}`, `hostnames: ["flyte.test"]`},
	"route.gateway.caConfigMap": {gateway + `, caConfigMap: other}}}`, "kind: ConfigMap, name: other}"},
	"route.ingress.enabled":     {ingress + `}}}`, "kind: Ingress\n"},
	"route.ingress.host":        {ingress + `}}}`, "host: flyte.test\n"},
	"route.ingress.className":   {ingress + `, className: nginx}}}`, "ingressClassName: nginx\n"},
	"route.ingress.tlsSecret":   {strings.Replace(ingress, ": s", ": other", 1) + `}}}`, "secretName: other}"},
	"route.ingress.annotations": {ingress + `, annotations: {a.test/b: c}}}}`, "a.test/b: c\n"},
}

const (
	sixtyFour     = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	webhookValues = `{mutation: {mode: webhook}, webhook: {`
	gateway       = `{networkPolicy: {from: [{podSelector: {}}]}, ` +
		`route: {gateway: {enabled: true, parents: [{name: g, sectionName: s}]`
	ingress = `{networkPolicy: {from: [{podSelector: {}}]}, ` +
		`route: {ingress: {enabled: true, host: flyte.test, tlsSecret: s`
)

// leaves returns the paths of the values in o that are not made of others.
func leaves(path string, o object) (all []string) {
	for key, v := range o {
		at := strings.TrimPrefix(path+"."+key, ".")
		if m, ok := v.(object); ok && len(m) > 0 {
			all = append(all, leaves(at, m)...)
		} else {
			all = append(all, at)
		}
	}
	return all
}

// overlaid returns the values of the tests with others over them.
func overlaid(t testing.TB, set string) string {
	t.Helper()
	var base, over object
	require.NoError(t, yaml.Unmarshal([]byte(values), &base))
	require.NoError(t, yaml.Unmarshal([]byte(set), &over))
	var put func(base, over object)
	put = func(base, over object) {
		for key, v := range over {
			from, both := base[key].(object)
			if m, ok := v.(object); ok && both {
				put(from, m)
			} else {
				base[key] = v
			}
		}
	}
	put(base, over)
	data, err := yaml.Marshal(base)
	require.NoError(t, err)
	return string(data)
}

// TestEveryValue renders the chart with another value for each value of values.yaml.
func TestEveryValue(t *testing.T) {
	t.Parallel()
	defaults := leaves("", read(t, "values.yaml"))
	defaults = slices.DeleteFunc(defaults, func(path string) bool {
		return strings.Contains(path, ".resources.")
	})
	defaults = append(defaults, "injectd.resources", "mutation.resources", "webhook.resources")
	require.ElementsMatch(t, defaults, slices.Collect(maps.Keys(everyValue)))
	plain, stderr, err := template(t, "v1.37.2")
	require.NoError(t, err, stderr)
	always := map[string]bool{}
	for line := range strings.Lines(plain) {
		always[line] = true
	}
	for path, v := range everyValue {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			out, stderr, err := harness.Chart(t, "v1.37.2", overlaid(t, v.set))
			require.NoError(t, err, stderr)
			// Only the lines that are new: a failure would print all of the chart.
			var fresh strings.Builder
			for line := range strings.Lines(out) {
				if !always[line] {
					fresh.WriteString(line)
				}
			}
			require.Contains(t, fresh.String(), v.want)
			require.NotEqual(t, sha256.Sum256([]byte(plain)), sha256.Sum256([]byte(out)), "the value changes nothing")
		})
	}
}

// Two servers on the networks of two nodes can be replaced: a new one needs the ports of one of before.
func TestHostNetwork(t *testing.T) {
	t.Parallel()
	surge := func(set string) (surge []any) {
		for _, o := range harness.ChartObjects(t, "v1.37.2", overlaid(t, webhookValues+set)) {
			if text(o, "kind") == "Deployment" && text(o, "metadata", "name") == "inject-webhook" {
				surge = append(surge, at(o, "spec", "strategy", "rollingUpdate", "maxSurge"))
			}
		}
		return surge
	}
	require.Equal(t, []any{1.0}, surge(`replicas: 2}}`))
	require.Equal(t, []any{0.0}, surge(`hostNetwork: true}}`))
}
