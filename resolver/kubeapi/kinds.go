package kubeapi

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// A Kind is a kind of objects of the API: T is an object, and L a list of them.
type Kind[T, L runtime.Object] struct {
	group    schema.GroupVersion
	resource string // as paths and roles name it
}

// resource is what calls need to know of a kind.
type resource struct {
	group schema.GroupVersion
	name  string
}

// String returns the resource as kubectl names it.
func (r resource) String() string {
	if r.group.Group == "" {
		return r.name
	}
	return r.name + "." + r.group.Group
}

// String returns the kind as kubectl names it.
func (k Kind[T, L]) String() string { return resource{k.group, k.resource}.String() }

// The kinds that can be called.
var (
	Secrets = Kind[*corev1.Secret, *corev1.SecretList]{corev1.SchemeGroupVersion, "secrets"}
	Pods    = Kind[*corev1.Pod, *corev1.PodList]{corev1.SchemeGroupVersion, "pods"}

	ConfigMaps = Kind[*corev1.ConfigMap, *corev1.ConfigMapList]{corev1.SchemeGroupVersion, "configmaps"}
	Namespaces = Kind[*corev1.Namespace, *corev1.NamespaceList]{corev1.SchemeGroupVersion, "namespaces"}
	Nodes      = Kind[*corev1.Node, *corev1.NodeList]{corev1.SchemeGroupVersion, "nodes"}

	// Reviews are questions: they can be created, and not listed.
	TokenReviews = Kind[*authenticationv1.TokenReview, *none]{
		authenticationv1.SchemeGroupVersion, "tokenreviews",
	}
	SubjectAccessReviews = Kind[*authorizationv1.SubjectAccessReview, *none]{
		authorizationv1.SchemeGroupVersion, "subjectaccessreviews",
	}
	SelfSubjectAccessReviews = Kind[*authorizationv1.SelfSubjectAccessReview, *none]{
		authorizationv1.SchemeGroupVersion, "selfsubjectaccessreviews",
	}

	Roles        = Kind[*rbacv1.Role, *rbacv1.RoleList]{rbacv1.SchemeGroupVersion, "roles"}
	RoleBindings = Kind[*rbacv1.RoleBinding, *rbacv1.RoleBindingList]{rbacv1.SchemeGroupVersion, "rolebindings"}
	ClusterRoles = Kind[*rbacv1.ClusterRole, *rbacv1.ClusterRoleList]{rbacv1.SchemeGroupVersion, "clusterroles"}

	ClusterRoleBindings = Kind[*rbacv1.ClusterRoleBinding, *rbacv1.ClusterRoleBindingList]{
		rbacv1.SchemeGroupVersion, "clusterrolebindings",
	}

	MutatingWebhooks = Kind[
		*admissionv1.MutatingWebhookConfiguration, *admissionv1.MutatingWebhookConfigurationList,
	]{admissionv1.SchemeGroupVersion, "mutatingwebhookconfigurations"}
	ValidatingWebhooks = Kind[
		*admissionv1.ValidatingWebhookConfiguration, *admissionv1.ValidatingWebhookConfigurationList,
	]{admissionv1.SchemeGroupVersion, "validatingwebhookconfigurations"}
	ValidatingPolicies = Kind[
		*admissionv1.ValidatingAdmissionPolicy, *admissionv1.ValidatingAdmissionPolicyList,
	]{admissionv1.SchemeGroupVersion, "validatingadmissionpolicies"}
	ValidatingBindings = Kind[
		*admissionv1.ValidatingAdmissionPolicyBinding, *admissionv1.ValidatingAdmissionPolicyBindingList,
	]{admissionv1.SchemeGroupVersion, "validatingadmissionpolicybindings"}

	// These two exist from Kubernetes 1.36 on.
	MutatingPolicies = Kind[
		*admissionv1.MutatingAdmissionPolicy, *admissionv1.MutatingAdmissionPolicyList,
	]{admissionv1.SchemeGroupVersion, "mutatingadmissionpolicies"}
	MutatingBindings = Kind[
		*admissionv1.MutatingAdmissionPolicyBinding, *admissionv1.MutatingAdmissionPolicyBindingList,
	]{admissionv1.SchemeGroupVersion, "mutatingadmissionpolicybindings"}
)

// none is the list of a kind that cannot be listed.
type none struct{ runtime.Object }

// scheme knows the types of the kinds above and no others, because each type that it knows is
// linked with all of its methods.
var scheme = newScheme()

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for group, types := range map[schema.GroupVersion][]runtime.Object{
		corev1.SchemeGroupVersion: {
			&corev1.Secret{}, &corev1.SecretList{}, &corev1.Pod{}, &corev1.PodList{},
			&corev1.ConfigMap{}, &corev1.ConfigMapList{}, &corev1.Namespace{}, &corev1.NamespaceList{},
			&corev1.Node{}, &corev1.NodeList{},
		},
		taskActionGroup:                     {&TaskAction{}},
		authenticationv1.SchemeGroupVersion: {&authenticationv1.TokenReview{}},
		authorizationv1.SchemeGroupVersion: {
			&authorizationv1.SubjectAccessReview{}, &authorizationv1.SelfSubjectAccessReview{},
		},
		rbacv1.SchemeGroupVersion: {
			&rbacv1.Role{}, &rbacv1.RoleList{}, &rbacv1.RoleBinding{}, &rbacv1.RoleBindingList{},
			&rbacv1.ClusterRole{}, &rbacv1.ClusterRoleList{},
			&rbacv1.ClusterRoleBinding{}, &rbacv1.ClusterRoleBindingList{},
		},
		admissionv1.SchemeGroupVersion: {
			&admissionv1.MutatingWebhookConfiguration{}, &admissionv1.MutatingWebhookConfigurationList{},
			&admissionv1.ValidatingWebhookConfiguration{}, &admissionv1.ValidatingWebhookConfigurationList{},
			&admissionv1.ValidatingAdmissionPolicy{}, &admissionv1.ValidatingAdmissionPolicyList{},
			&admissionv1.ValidatingAdmissionPolicyBinding{}, &admissionv1.ValidatingAdmissionPolicyBindingList{},
			&admissionv1.MutatingAdmissionPolicy{}, &admissionv1.MutatingAdmissionPolicyList{},
			&admissionv1.MutatingAdmissionPolicyBinding{}, &admissionv1.MutatingAdmissionPolicyBindingList{},
		},
	} {
		s.AddKnownTypes(group, types...)
		metav1.AddToGroupVersion(s, group) // options of calls
	}
	for group, kinds := range workloads {
		for _, kind := range kinds {
			s.AddKnownTypeWithName(group.WithKind(kind), &Workload{})
			s.AddKnownTypeWithName(group.WithKind(kind+"List"), &WorkloadList{})
		}
		metav1.AddToGroupVersion(s, group)
	}
	_ = metav1.AddMetaToScheme(s) // lists of metadata; cannot fail
	return s
}

var (
	codecs     = serializer.NewCodecFactory(scheme)
	parameters = runtime.NewParameterCodec(scheme)
)
