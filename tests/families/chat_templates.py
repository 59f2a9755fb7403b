"""Chat templates in the habits of the published ones, spelled for the tests: turn markers, tools, thoughts, where media stand."""

from __future__ import annotations

from typing import Any

from tests.families.processors import FamilyName, build_processor

__all__ = ["TEMPLATES", "processor_with"]

_QWEN_PARTS = """\
{%- macro say(content) -%}
    {%- if content is string -%}{{- content -}}
    {%- else -%}
        {%- for item in content -%}
            {%- if item.type == 'image' or 'image' in item -%}<|vision_start|><|image_pad|><|vision_end|>
            {%- elif item.type == 'video' or 'video' in item -%}<|vision_start|><|video_pad|><|vision_end|>
            {%- elif 'text' in item -%}{{- item.text -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
"""
_JSON_TOOLS = """\
{%- if tools -%}
    {{- '<|im_start|>system\\n' -}}
    {%- if messages[0].role == 'system' -%}{{- say(messages[0].content) + '\\n\\n' -}}{%- endif -%}
    {{- '# Tools\\n\\nYou may call these functions:\\n<tools>' -}}
    {%- for tool in tools -%}{{- '\\n' -}}{{- tool | tojson -}}{%- endfor -%}
    {{- '\\n</tools>\\n\\nAnswer with\\n<tool_call>\\n{"name": <name>, "arguments": <object>}\\n</tool_call><|im_end|>\\n' -}}
{%- elif messages[0].role == 'system' -%}
    {{- '<|im_start|>system\\n' + say(messages[0].content) + '<|im_end|>\\n' -}}
{%- endif -%}
"""
_JSON_CALLS = """\
{%- for call in message.tool_calls or [] -%}
    {%- if (loop.first and content) or not loop.first -%}{{- '\\n' -}}{%- endif -%}
    {%- if call.function -%}{%- set call = call.function -%}{%- endif -%}
    {{- '<tool_call>\\n{"name": "' -}}{{- call.name -}}{{- '", "arguments": ' -}}
    {%- if call.arguments is string -%}{{- call.arguments -}}{%- else -%}{{- call.arguments | tojson -}}{%- endif -%}
    {{- '}\\n</tool_call>' -}}
{%- endfor -%}
"""
_REPLIES = """\
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
{{- '\\n<tool_response>\\n' + say(message.content) + '\\n</tool_response>' -}}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
"""
_LAST_QUERY = """\
{%- set ns = namespace(searching=true, last=messages | length - 1) -%}
{%- for message in messages[::-1] -%}
    {%- set asked = say(message.content) -%}
    {%- if ns.searching and message.role == 'user'
            and not (asked.startswith('<tool_response>') and asked.endswith('</tool_response>')) -%}
        {%- set ns.searching = false -%}
        {%- set ns.last = messages | length - 1 - loop.index0 -%}
    {%- endif -%}
{%- endfor -%}
"""
_TAKE_THOUGHT_OUT = """\
{%- set thought = '' -%}
{%- if message.reasoning_content is string -%}
    {%- set thought = message.reasoning_content -%}
{%- elif '</think>' in content -%}
    {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
    {%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
"""

QWEN3_VL = (
    _QWEN_PARTS
    + _JSON_TOOLS
    + "{%- for message in messages -%}{%- set content = message.content -%}"
    + "{%- if message.role == 'user' -%}{{- '<|im_start|>user\\n' + say(content) + '<|im_end|>\\n' -}}"
    + "{%- elif message.role == 'assistant' -%}{{- '<|im_start|>assistant\\n' -}}{{- say(content) -}}"
    + _JSON_CALLS
    + "{{- '<|im_end|>\\n' -}}{%- elif message.role == 'tool' -%}"
    + _REPLIES
    + "{%- endif -%}{%- endfor -%}"
    + "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
"""Tools as JSON; a system turn stands first or nowhere."""

QWEN25_TOOLS = QWEN3_VL.replace(
    "{{- '<|im_start|>assistant\\n' -}}{{- say(content) -}}",
    "{{- '<|im_start|>assistant' -}}{%- if content -%}{{- '\\n' + say(content) -}}{%- endif -%}",
).replace("{%- if (loop.first and content) or not loop.first -%}{{- '\\n' -}}{%- endif -%}", "{{- '\\n' -}}")
"""The line end behind the role belongs to what follows it."""


def _thinking(prompt: str, in_last_turn: str) -> str:
    return (
        _QWEN_PARTS
        + _JSON_TOOLS
        + _LAST_QUERY
        + "{%- for message in messages -%}{%- set content = say(message.content) -%}"
        + "{%- if message.role == 'user' or (message.role == 'system' and not loop.first) -%}"
        + "{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' -}}"
        + "{%- elif message.role == 'assistant' -%}"
        + _TAKE_THOUGHT_OUT
        + "{{- '<|im_start|>assistant\\n' -}}"
        + "{%- if loop.index0 > ns.last and ("
        + in_last_turn
        + ") -%}{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') -}}"
        + "{%- else -%}{{- content -}}{%- endif -%}"
        + _JSON_CALLS
        + "{{- '<|im_end|>\\n' -}}{%- elif message.role == 'tool' -%}"
        + _REPLIES
        + "{%- endif -%}{%- endfor -%}"
        + "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n"
        + prompt
        + "' -}}{%- endif -%}"
    )


QWEN3 = _thinking("", "loop.last or thought")
"""Thoughts behind the last question alone; an empty one where the last turn has none."""

QWEN3_THINKING = _thinking("<think>\\n", "loop.last or thought")
"""The same of models that always think: the prompt opens the thought."""

_XML_CALLS = """\
{%- for call in message.tool_calls or [] -%}
    {%- if (loop.first and content | trim) or not loop.first -%}{{- '\\n' if not loop.first else '\\n\\n' -}}{%- endif -%}
    {%- if call.function is defined -%}{%- set call = call.function -%}{%- endif -%}
    {{- '<tool_call>\\n<function=' + call.name + '>\\n' -}}
    {%- for key, value in call.arguments | items -%}
        {{- '<parameter=' + key + '>\\n' -}}
        {{- value if value is string else value | tojson -}}
        {{- '\\n</parameter>\\n' -}}
    {%- endfor -%}
    {{- '</function>\\n</tool_call>' -}}
{%- endfor -%}
"""
QWEN35 = (
    QWEN3_THINKING.replace(_JSON_CALLS, _XML_CALLS)
    .replace("thought.strip('\\n')", "thought | trim")
    .replace("loop.last or thought", "true")
    .replace("{%- set content = say(message.content) -%}", "{%- set content = say(message.content) | trim -%}")
)
"""Calls as XML, everything stripped, a thought in every turn behind the last question."""

NEMOTRON = (
    _QWEN_PARTS.replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>").replace(
        "<|vision_start|><|video_pad|><|vision_end|>", "<video>"
    )
    + _JSON_TOOLS
    + _LAST_QUERY
    + "{%- for message in messages -%}{%- set content = say(message.content) -%}"
    + "{%- if message.role == 'user' -%}{{- '<|im_start|>user\\n' + content + '<|im_end|>\\n' -}}"
    + "{%- elif message.role == 'assistant' -%}"
    + "{%- if message.reasoning_content is string -%}"
    + "{%- set content = '<think>\\n' + message.reasoning_content + '\\n</think>\\n' + content -%}"
    + "{%- elif '</think>' not in content -%}{%- set content = '<think></think>' + content -%}{%- endif -%}"
    + "{{- '<|im_start|>assistant\\n' -}}"
    + "{%- if loop.index0 < ns.last -%}"
    + "{%- set content = '<think></think>' + content.split('</think>')[-1] -%}{%- endif -%}"
    + "{{- content | trim -}}"
    + _XML_CALLS
    + "{{- '<|im_end|>\\n' -}}{%- elif message.role == 'tool' -%}"
    + _REPLIES
    + "{%- endif -%}{%- endfor -%}"
    + "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n<think>\\n' -}}{%- endif -%}"
)
"""An empty thought where there is none, also in earlier turns."""

STEP = QWEN3_THINKING.replace(_JSON_CALLS, _XML_CALLS.replace("content | trim", "false")).replace(
    "<|vision_start|><|image_pad|><|vision_end|>", "<im_patch>"
)

INTERNVL = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.content is string -%}{{- message.content -}}
    {%- else -%}
        {%- for item in message.content -%}
            {%- if item.type == 'image' -%}{{- '<IMG_CONTEXT>\\n' -}}
            {%- elif item.type == 'video' -%}{{- '<video>\\n' -}}
            {%- elif item.type == 'text' -%}{{- item.text -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

LLAVA_ONEVISION = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + ' ' -}}
    {%- for item in message.content if item.type == 'image' -%}{{- '<image>' -}}{%- endfor -%}
    {%- for item in message.content if item.type == 'video' -%}{{- '<video>' -}}{%- endfor -%}
    {%- for item in message.content if item.type == 'text' -%}{{- '\\n' + item.text -}}{%- endfor -%}
    {{- '<|im_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""Media ahead of the text; no line end between turns."""

_GEMMA_VALUES = """\
{%- macro value(given) -%}
    {%- if given is string -%}{{- '<|"|>' + given + '<|"|>' -}}
    {%- elif given is boolean -%}{{- 'true' if given else 'false' -}}
    {%- elif given is mapping -%}
        {{- '{' -}}
        {%- for key, inner in given | dictsort -%}{{- key -}}:{{- value(inner) -}}{{- ',' if not loop.last -}}{%- endfor -%}
        {{- '}' -}}
    {%- elif given is sequence -%}
        {{- '[' -}}{%- for inner in given -%}{{- value(inner) -}}{{- ',' if not loop.last -}}{%- endfor -%}{{- ']' -}}
    {%- else -%}{{- given -}}
    {%- endif -%}
{%- endmacro -%}
"""
_GEMMA_HEAD = """\
{{- bos_token -}}
{%- set ns = namespace(inside=false, last=-1) -%}
{%- set turns = messages -%}
{%- if tools or messages[0].role == 'system' -%}
    {{- '<|turn>system\\n' -}}
    {%- if messages[0].role == 'system' -%}
        {{- messages[0].content | trim -}}
        {%- set turns = messages[1:] -%}
    {%- endif -%}
    {%- for tool in tools or [] -%}
        {{- '<|tool>declaration:' + tool.function.name + value(tool.function.parameters) + '<tool|>' -}}
    {%- endfor -%}
    {{- '<turn|>\\n' -}}
{%- endif -%}
{%- for message in turns -%}{%- if message.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
"""
_GEMMA_CALLS = """\
{%- if message.reasoning_content and message.tool_calls and loop.index0 > ns.last -%}
    {{- '<|channel>thought\\n' + message.reasoning_content + '\\n<channel|>' -}}
{%- endif -%}
{%- for call in message.tool_calls or [] -%}
    {{- '<|tool_call>call:' + call.function.name + value(call.function.arguments) + '<tool_call|>' -}}
{%- endfor -%}
"""
_GEMMA_SAYS = """\
{%- if message.content is string -%}{{- message.content | trim -}}
{%- else -%}
    {%- for item in message.content -%}
        {%- if item.type == 'text' -%}{{- item.text | trim -}}
        {%- elif item.type == 'image' -%}{{- '\\n\\n<|image|>\\n\\n' -}}
        {%- elif item.type == 'audio' -%}{{- '<|audio|>' -}}
        {%- elif item.type == 'video' -%}{{- '\\n\\n<|video|>\\n\\n' -}}
        {%- endif -%}
    {%- endfor -%}
{%- endif -%}
"""
GEMMA4 = (
    _GEMMA_VALUES
    + _GEMMA_HEAD
    + "{%- for message in turns -%}"
    + "{{- '<|turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' -}}"
    + _GEMMA_CALLS
    + _GEMMA_SAYS
    + "{{- '<turn|>\\n' -}}{%- endfor -%}"
    + "{%- if add_generation_prompt -%}{{- '<|turn>model\\n<|channel>thought\\n<channel|>' -}}{%- endif -%}"
)
"""Calls ahead of the text, thoughts with calls alone, everything stripped."""

GEMMA4_RESPONSES = (
    _GEMMA_VALUES
    + _GEMMA_HEAD
    + "{%- for message in turns -%}{%- if message.role == 'tool' -%}"
    + "{{- 'response:' + (message.name or 'unknown') + '{value:' -}}"
    + _GEMMA_SAYS
    + "{{- '}<tool_response|>' -}}{%- if not loop.last and turns[loop.index0 + 1].role == 'tool' -%}"
    + "{{- '<|tool_response>' -}}{%- endif -%}{%- set ns.inside = true -%}"
    + "{%- else -%}{%- if not ns.inside -%}"
    + "{{- '<|turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' -}}{%- endif -%}"
    + "{%- set ns.inside = false -%}"
    + _GEMMA_CALLS
    + _GEMMA_SAYS
    + "{{- '<|tool_response>' if message.tool_calls else '<turn|>\\n' -}}{%- endif -%}{%- endfor -%}"
    + "{%- if add_generation_prompt and not ns.inside -%}{{- '<|turn>model\\n' -}}{%- endif -%}"
)
"""A turn goes on behind the tool's reply: what ends a call is the token that opens the reply."""

KIMI_K25 = """\
{%- macro say(message) -%}
    {%- if message.content is string -%}{{- message.content -}}
    {%- else -%}
        {%- for item in message.content -%}
            {%- if item.type == 'image' -%}{{- '<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\\n' -}}
            {%- elif item.type == 'video' -%}{{- '<|kimi_k25_video_placeholder|>' -}}
            {%- else -%}{{- item.text -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- macro call(message) -%}
    {{- '<|tool_calls_section_begin|>' -}}
    {%- for one in message.tool_calls -%}
        {{- '<|tool_call_begin|>' ~ one.id ~ '<|tool_call_argument_begin|>' -}}
        {{- one.function.arguments if one.function.arguments is string else one.function.arguments | tojson -}}
        {{- '<|tool_call_end|>' -}}
    {%- endfor -%}
    {{- '<|tool_calls_section_end|>' -}}
{%- endmacro -%}
{%- set ns = namespace(last=-1) -%}
{%- for message in messages -%}
    {%- if message.role == 'assistant' and not message.tool_calls -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- if tools -%}{{- '<|im_system|>tool_declare<|im_middle|>' + tools | tojson + '<|im_end|>' -}}{%- endif -%}
{%- for message in messages -%}
    {%- set who = message.role if message.role in ('user', 'assistant') else 'system' -%}
    {{- '<|im_' + who + '|>' + (message.name or message.role) + '<|im_middle|>' -}}
    {%- if message.role == 'assistant' -%}
        {%- set thought = message.reasoning_content or '' -%}
        {{- '<think>' + (thought if loop.index0 > ns.last else '') + '</think>' -}}
        {{- say(message) -}}
        {%- if message.tool_calls -%}{{- call(message) -}}{%- endif -%}
    {%- elif message.role == 'tool' -%}
        {{- '## Return of ' + (message.tool_call_id or '') + '\\n' + say(message) -}}
    {%- else -%}{{- say(message) -}}
    {%- endif -%}
    {{- '<|im_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_assistant|>assistant<|im_middle|><think>' -}}{%- endif -%}
"""
"""Ids of calls in place of names; thoughts behind the last answer alone."""

PHI4 = """\
{%- for message in messages -%}
    {{- '<|' + message.role + '|>' -}}
    {%- if message.content is string -%}{{- message.content -}}
    {%- else -%}
        {%- for item in message.content -%}
            {%- if item.type == 'image' -%}{{- '<|endoftext10|>' -}}
            {%- elif item.type == 'audio' -%}{{- '<|endoftext11|>' -}}
            {%- elif item.type == 'text' -%}{{- item.text -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- else -%}{{- eos_token -}}{%- endif -%}
"""
"""Nothing between turns, and the end token behind the conversation."""

IDEFICS3 = """\
{{- bos_token or '' -}}
{%- for message in messages -%}
    {{- message.role | capitalize -}}
    {{- ':' if message.content and message.content[0].type == 'image' else ': ' -}}
    {%- for item in message.content -%}
        {%- if item.type == 'text' -%}{{- item.text -}}
        {%- elif item.type in ('image', 'video') -%}{{- '<' + item.type + '>' -}}
        {%- endif -%}
    {%- endfor -%}
    {{- '<end_of_utterance>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}
"""

TEMPLATES: dict[str, tuple[FamilyName, str]] = {
    "qwen2_5_tools": ("qwen2_5_vl", QWEN25_TOOLS),
    "qwen3_vl": ("qwen3_vl", QWEN3_VL),
    "qwen3": ("qwen3_omni", QWEN3),
    "qwen3_thinking": ("qwen3_vl", QWEN3_THINKING),
    "qwen3_5": ("qwen3_vl", QWEN35),
    "nemotron": ("nemotron_omni", NEMOTRON),
    "step3_7": ("step3p7", STEP),
    "internvl": ("internvl", INTERNVL),
    "llava_onevision": ("llava_onevision", LLAVA_ONEVISION),
    "gemma4": ("gemma4", GEMMA4),
    "gemma4_responses": ("gemma4", GEMMA4_RESPONSES),
    "kimi_k25": ("kimi_k25", KIMI_K25),
    "phi4": ("phi4_multimodal", PHI4),
    "idefics3": ("idefics3", IDEFICS3),
    "smolvlm": ("smolvlm", IDEFICS3),
}
"""By the habit's name: whose processor, and the template."""

SPECIAL: dict[str, list[str]] = {
    "gemma4": ["<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>'],
    "kimi_k25": [
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "<|tool_calls_section_end|>",
    ],
}
"""Control tokens beside those that the small processors have."""
WORDS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
"""Tokens of the published vocabularies that are no control tokens."""


def processor_with(name: str, template: str | None = None) -> Any:
    """A small processor with a template of `TEMPLATES`, or a variation of one, and the tokens that it writes."""
    family, published = TEMPLATES[name]
    processor = build_processor(family)
    processor.tokenizer.add_tokens(SPECIAL.get(family, []), special_tokens=True)
    processor.tokenizer.add_tokens(WORDS)
    processor.chat_template = template or published
    processor.tokenizer.chat_template = None
    return processor
