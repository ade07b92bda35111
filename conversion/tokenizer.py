# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Shim, not to be merged."""

IMAGE_TOKEN = "<image>"
JOINED_IMAGE_TOKEN = "<\u2060image>"
CHAT_MACROS = """\
{%- macro escape(text) -%}
{{- (text or "") | replace("<image>", "<\\u2060image>") -}}
{%- endmacro -%}
{%- macro render(content) -%}
{%- if content is string or content is none -%}
{{- escape(content) -}}
{%- else -%}
{%- set run = namespace(text="") -%}
{%- for item in content -%}
{%- if item["type"] == "image" -%}
{{- escape(run.text) ~ "<image>" -}}
{%- set run.text = "" -%}
{%- elif item["type"] == "text" -%}
{%- set run.text = run.text ~ (item["text"] or "") -%}
{%- else -%}
{{- raise_exception("FILA reads items of type 'text' and 'image', not '" ~ item["type"] ~ "'.") -}}
{%- endif -%}
{%- endfor -%}
{{- escape(run.text) -}}
{%- endif -%}
{%- endmacro -%}
"""
