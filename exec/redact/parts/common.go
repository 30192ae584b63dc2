package parts

import (
	"bytes"
	"slices"
)

// Common reports whether value is a word that many logs have in them, or one character again and
// again, as in lines and placeholders. If a secret has such a value, masking it makes a log
// unreadable, and shows in which places the value was.
func Common(value []byte) bool {
	value = bytes.TrimSpace(value)
	if len(value) > 0 && len(bytes.TrimLeft(value, string(value[:1]))) == 0 {
		return true
	}
	if len(value) > 16 {
		return false
	}
	_, found := slices.BinarySearch(common, string(bytes.ToLower(value)))
	return found
}

// common is sorted.
var common = []string{
	"account", "active", "admin", "administrator", "amazon", "amd64", "anonymous", "ansible", "apache", "application",
	"artifact", "async", "attempt", "automatic", "azure", "backend", "backup", "basic", "bearer", "bitbucket",
	"bootstrap", "branch", "bucket", "builder", "cache", "changed", "changeme", "client", "cluster", "command",
	"commit", "complete", "completed", "config", "configuration", "connection", "console", "container", "content",
	"context", "controller", "create", "created", "credential", "credentials", "database", "datadog", "dataset",
	"debian", "debug", "default", "delete", "deleted", "demo", "deploy", "deployment", "develop", "development",
	"disable", "disabled", "docker", "domain", "download", "elasticsearch", "email", "enable", "enabled", "endpoint",
	"entrypoint", "environment", "error", "example", "execution", "executor", "failed", "failure", "false", "feature",
	"file", "finished", "flyte", "folder", "foobar", "frontend", "function", "gateway", "github", "gitlab", "global",
	"google", "grafana", "group", "guest", "handler", "health", "healthy", "hello", "helm", "hostname", "ignore",
	"image", "index", "info", "ingress", "input", "install", "instance", "internal", "invalid", "jenkins", "kafka",
	"kubectl", "kubernetes", "label", "latest", "library", "linux", "listen", "local", "localhost", "logger", "login",
	"main", "manager", "master", "memory", "message", "method", "metrics", "minikube", "minio", "missing", "model",
	"module", "monitor", "mysql", "namespace", "network", "nginx", "nobody", "node", "none", "normal", "notification",
	"null", "number", "object", "oracle", "organization", "output", "package", "parameter", "passphrase", "password",
	"pending", "pipeline", "platform", "plugin", "postgres", "postgresql", "private", "process", "prod", "production",
	"profile", "project", "prometheus", "protocol", "provider", "public", "python", "python3", "rabbitmq", "readonly",
	"ready", "redis", "region", "registry", "release", "remote", "replica", "report", "repository", "request",
	"resource", "response", "result", "retry", "role", "root", "runner", "running", "sample", "schedule", "scheduler",
	"schema", "search", "secret", "secrets", "security", "sentry", "server", "service", "session", "setting",
	"settings", "shared", "source", "spark", "staging", "standard", "started", "status", "storage", "string", "success",
	"support", "system", "target", "task", "template", "temporary", "terraform", "test", "testing", "thread", "timeout",
	"token", "trace", "training", "true", "ubuntu", "undefined", "unknown", "update", "updated", "upload", "user",
	"username", "value", "vault", "version", "volume", "warning", "webhook", "windows", "worker", "workflow",
	"workspace",
}
