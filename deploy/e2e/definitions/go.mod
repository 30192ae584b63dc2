// Definitions of objects that the chart makes and that Kubernetes itself does not have. Nothing is compiled.
module inject/deploy/e2e/definitions

go 1.26.0

require (
	github.com/prometheus-operator/prometheus-operator v0.85.0
	sigs.k8s.io/gateway-api v1.4.1
)
