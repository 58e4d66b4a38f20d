// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

const (
	namespace = "drivers"
	kernel    = "6.1.0-56-cloud-amd64"
	// poolLabel selects the last Module's nodes: all, until one is taken out.
	poolLabel = "example.org/pool"
)

// module is the number i of n, from 1 on: two distributions and one kernel by
// name, parameters, firmware, an in-tree module to replace.
func module(i, n int) *v1beta1.Module {
	name := fmt.Sprintf("driver-%02d", i)
	selector := map[string]string{corev1.LabelOSStable: "linux"}
	if i == n {
		selector[poolLabel] = "a"
	}
	return &v1beta1.Module{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1beta1.ModuleSpec{
			Selector: selector, ImageRepoSecret: &corev1.LocalObjectReference{Name: "registry"},
			ModuleLoader: &v1beta1.ModuleLoaderSpec{Container: v1beta1.ModuleLoaderContainerSpec{
				ContainerImage:  "registry.example.org/drivers/$MOD_NAME:1.4.2-${KERNEL_FULL_VERSION}",
				ImagePullPolicy: corev1.PullIfNotPresent,
				Modprobe: v1beta1.ModprobeSpec{
					ModuleName: v1beta1.ModuleName(fmt.Sprintf("driver_%02d", i)), FirmwarePath: "/firmware",
					Parameters: []string{"queues=16", "debug=0", "mode=performance"},
				},
				InTreeModulesToRemove: []v1beta1.ModuleName{v1beta1.ModuleName(fmt.Sprintf("driver_%02d_old", i))},
				KernelMappings: []v1beta1.KernelMapping{
					{Literal: "5.14.0-503.11.1.el9_5.x86_64", ContainerImage: "registry.example.org/drivers/$MOD_NAME:1.3.9-el9"},
					{Regexp: `^6\.1\.0-\d+-cloud-amd64$`},
					{Regexp: `^6\.12\.\d+\+deb12-cloud-amd64$`, ContainerImage: "registry.example.org/drivers/$MOD_NAME:1.5.0-${KERNEL_FULL_VERSION}"},
				},
			}},
		},
	}
}

// nodeLabels are as many as a node of a cloud has.
func nodeLabels(i int) map[string]string {
	return map[string]string{
		poolLabel:                                                       "a",
		"node-role.kubernetes.io/worker":                                "",
		"node.kubernetes.io/instance-type":                              "n2-standard-16",
		"topology.kubernetes.io/region":                                 "europe-west4",
		"topology.kubernetes.io/zone":                                   fmt.Sprintf("europe-west4-%c", 'a'+i%3),
		"topology.example.org/rack":                                     fmt.Sprintf("rack-%03d", i/40),
		"failure-domain.beta.kubernetes.io/region":                      "europe-west4",
		"cloud.example.org/machine-family":                              "n2",
		"cloud.example.org/os-distribution":                             "debian",
		"cloud.example.org/nodepool":                                    "workers",
		"feature.node.kubernetes.io/pci-15b3.present":                   "true",
		"feature.node.kubernetes.io/cpu-cpuid.AVX512F":                  "true",
		"feature.node.kubernetes.io/kernel-version.full":                kernel,
		"feature.node.kubernetes.io/system-os_release.ID":               "debian",
		"feature.node.kubernetes.io/kernel-config.NO_HZ":                "true",
		"feature.node.kubernetes.io/storage-nonrotationaldisk":          "true",
		"feature.node.kubernetes.io/network-sriov.capable":              "true",
		"feature.node.kubernetes.io/memory-numa":                        "true",
		"feature.node.kubernetes.io/system-os_release.VERSION_ID.major": "12",
	}
}
