package kubeapi

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TaskActions are Flyte's: each task of a run is one, and owns its pod.
var TaskActions = Kind[*TaskAction, *none]{taskActionGroup, "taskactions"}

var taskActionGroup = schema.GroupVersion{Group: "flyte.org", Version: "v1"}

// A TaskAction has the fields of Flyte's object (executor/api/v1/taskaction_types.go at 2.0.43) that say
// whose task it is.
type TaskAction struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec TaskActionSpec `json:"spec"`
}

// TaskActionSpec is what a TaskAction runs.
type TaskActionSpec struct {
	RunName    string `json:"runName"`
	ActionName string `json:"actionName"`
	Project    string `json:"project"`
	Domain     string `json:"domain"`
	// TaskTemplate is a flyteidl2.core.TaskTemplate in the binary format.
	TaskTemplate []byte `json:"taskTemplate"`
}

// DeepCopyObject implements [runtime.Object].
func (a *TaskAction) DeepCopyObject() runtime.Object {
	other := *a
	a.DeepCopyInto(&other.ObjectMeta)
	other.Spec.TaskTemplate = append([]byte(nil), a.Spec.TaskTemplate...)
	return &other
}
