package kubeapi

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	appsGroup  = schema.GroupVersion{Group: "apps", Version: "v1"}
	batchGroup = schema.GroupVersion{Group: "batch", Version: "v1"}
)

// Workloads are the kinds of Kubernetes with a template of which a controller makes pods.
var Workloads = []Kind[*Workload, *WorkloadList]{
	{appsGroup, "daemonsets"},
	{appsGroup, "deployments"},
	{appsGroup, "replicasets"},
	{appsGroup, "statefulsets"},
	{batchGroup, "cronjobs"},
	{batchGroup, "jobs"},
	{corev1.SchemeGroupVersion, "podtemplates"},
	{corev1.SchemeGroupVersion, "replicationcontrollers"},
}

// workloads are the types of these kinds, which are read as [Workload].
var workloads = map[schema.GroupVersion][]string{
	appsGroup:                 {"DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"},
	batchGroup:                {"CronJob", "Job"},
	corev1.SchemeGroupVersion: {"PodTemplate", "ReplicationController"},
}

// A Workload has the metadata of an object with a template of pods, and where the template is.
type Workload struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec     WorkloadSpec `json:"spec"`
	Template *PodMetadata `json:"template"` // of a PodTemplate
}

// WorkloadSpec has the template of all kinds but PodTemplate: of a CronJob that of its Jobs.
type WorkloadSpec struct {
	Template    *PodMetadata `json:"template"`
	JobTemplate *struct {
		Spec struct {
			Template *PodMetadata `json:"template"`
		} `json:"spec"`
	} `json:"jobTemplate"`
}

// PodMetadata is what a template says of its pods besides their spec.
type PodMetadata struct {
	metav1.ObjectMeta `json:"metadata"`
}

// Pods returns the metadata of the pods that are made of the object.
func (w *Workload) Pods() metav1.ObjectMeta {
	at := w.Template
	switch {
	case w.Spec.JobTemplate != nil:
		at = w.Spec.JobTemplate.Spec.Template
	case w.Spec.Template != nil:
		at = w.Spec.Template
	}
	if at == nil {
		return metav1.ObjectMeta{}
	}
	return at.ObjectMeta
}

// DeepCopyObject implements [runtime.Object]. The copy shares the template, which is only read.
func (w *Workload) DeepCopyObject() runtime.Object {
	other := *w
	w.DeepCopyInto(&other.ObjectMeta)
	return &other
}

// A WorkloadList is a list of one of these kinds.
type WorkloadList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []Workload `json:"items"`
}

// DeepCopyObject implements [runtime.Object]. The copy shares the items.
func (l *WorkloadList) DeepCopyObject() runtime.Object {
	other := *l
	return &other
}

// asJSON marks lists for which the API server is asked in JSON, because their types know no protobuf.
func (l *WorkloadList) asJSON() {}
