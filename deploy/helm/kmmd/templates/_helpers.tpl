{{- /* SPDX-License-Identifier: Apache-2.0

The manifests are those of deploy/base and deploy/openshift, which links make part of the chart: there is one text of each. The templates
read them, put the release's namespace in, and set what values say.
*/ -}}

{{- /* kmmd.documents: all documents of a file, as {"list": […]}: list of the context and the file's name. */ -}}
{{- define "kmmd.documents" -}}
{{- $root := index . 0 -}}
{{- $text := $root.Files.Get (index . 1) -}}
{{- if not $text -}}{{- fail (printf "the chart has no %s: package it where its links lead somewhere" (index . 1)) -}}{{- end -}}
{{- $text = replace "kmm-system" $root.Release.Namespace $text -}}
{{- $list := list -}}
{{- range regexSplit "(?m)^---$" $text -1 -}}
{{- $list = append $list (fromYaml .) -}}
{{- end -}}
{{- dict "list" $list | toYaml -}}
{{- end -}}

{{- /* kmmd.document: one of them, by its kind: list of the context, the file's name, the kind. */ -}}
{{- define "kmmd.document" -}}
{{- $kind := index . 2 -}}
{{- range (include "kmmd.documents" . | fromYaml).list -}}
{{- if eq .kind $kind -}}{{- toYaml . -}}{{- end -}}
{{- end -}}
{{- end -}}

{{- /* kmmd.manifest: a document as it is applied. */ -}}
{{- define "kmmd.manifest" -}}
{{- $labels := default dict .metadata.labels -}}
{{- $_ := set .metadata "labels" (set $labels "app.kubernetes.io/part-of" "kmmd") }}
---
{{ toYaml . }}
{{- end -}}

{{- /* kmmd.manifests: all of a file: list of the context and the file's name. */ -}}
{{- define "kmmd.manifests" -}}
{{- range (include "kmmd.documents" . | fromYaml).list -}}
{{- include "kmmd.manifest" . -}}
{{- end -}}
{{- end -}}

{{- /* kmmd.requiresAccess: whether kmm-watcher asks who reads its figures. */ -}}
{{- define "kmmd.requiresAccess" -}}
{{- if or .Values.watcher.requireAccess (regexMatch "--require-access( |$|=[1tT])" (join " " .Values.watcher.extraArgs)) -}}yes{{- end -}}
{{- end -}}

{{- /* kmmd.podOf sets what values say of both workloads: dict of root, object, image, values. Nothing is printed. */ -}}
{{- define "kmmd.podOf" -}}
{{- $template := .object.spec.template -}}
{{- $spec := $template.spec -}}
{{- $container := first $spec.containers -}}
{{- $_ := set $container "image" .image -}}
{{- with .root.Values.images.pullPolicy -}}{{- $_ := set $container "imagePullPolicy" . -}}{{- end -}}
{{- $_ := set $container "resources" .values.resources -}}
{{- with .values.extraEnv -}}{{- $_ := set $container "env" (concat $container.env .) -}}{{- end -}}
{{- $secrets := list -}}
{{- range .root.Values.images.pullSecrets -}}{{- $secrets = append $secrets (dict "name" .) -}}{{- end -}}
{{- with $secrets -}}{{- $_ := set $spec "imagePullSecrets" . -}}{{- end -}}
{{- with .values.priorityClassName -}}{{- $_ := set $spec "priorityClassName" . -}}{{- else -}}{{- $_ := unset $spec "priorityClassName" -}}{{- end -}}
{{- range $name := list "nodeSelector" "affinity" "tolerations" -}}
{{- with index $.values $name -}}{{- $_ := set $spec $name . -}}{{- else -}}{{- $_ := unset $spec $name -}}{{- end -}}
{{- end -}}
{{- with .values.podAnnotations -}}{{- $_ := set $template.metadata "annotations" . -}}{{- end -}}
{{- end -}}
