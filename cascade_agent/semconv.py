"""Every name that telemetry gives to the outside: spans, events, metrics and their attributes. Strings, nothing else.

A `gen_ai.*` name stands here and nowhere else. These conventions are still in development, and the module that
held them in the OpenTelemetry package is being emptied: a rename is a change of this file.
"""

from __future__ import annotations

from typing import Final

# ---- spans ----------------------------------------------------------------------------------------------------------

STEP: Final = "cascade.step"
ATTEMPT: Final = "cascade.attempt"
VALIDATE: Final = "cascade.validate"
CHAT: Final = "chat"
INVOKE_WORKFLOW: Final = "invoke_workflow"

# ---- our own attributes ---------------------------------------------------------------------------------------------

STEP_ID: Final = "cascade.step.id"
STEP_NAME: Final = "cascade.step.name"
STEP_OUTCOME: Final = "cascade.step.outcome"
STEP_ESCALATED: Final = "cascade.step.escalated"
STEP_ATTEMPTS: Final = "cascade.step.attempts"
STEP_FINAL_TIER: Final = "cascade.step.final_tier"
STEP_REASON: Final = "cascade.step.reason"
STEP_CONFIDENCE: Final = "cascade.step.confidence"
STEP_COST: Final = "cascade.step.cost"
COST_CURRENCY: Final = "cascade.cost.currency"
POLICY_VERSION: Final = "cascade.policy.version"

ATTEMPT_INDEX: Final = "cascade.attempt.index"
ATTEMPT_OUTCOME: Final = "cascade.attempt.outcome"
ATTEMPT_SCORE: Final = "cascade.attempt.score"
ATTEMPT_THRESHOLD: Final = "cascade.attempt.threshold"
ATTEMPT_INPUT_TOKENS: Final = "cascade.attempt.input_tokens"
ATTEMPT_OUTPUT_TOKENS: Final = "cascade.attempt.output_tokens"
ATTEMPT_COST: Final = "cascade.attempt.cost"
TIER_NAME: Final = "cascade.tier.name"
TIER_MODEL: Final = "cascade.tier.model"
TIER_FROM: Final = "cascade.tier.from"
TIER_TO: Final = "cascade.tier.to"
VALIDATION_PASSED: Final = "cascade.validation.passed"
VALIDATION_FAILED: Final = "cascade.validation.failed"
ESCALATION_REASON: Final = "cascade.escalation.reason"

# ---- events ---------------------------------------------------------------------------------------------------------

ESCALATION: Final = "cascade.escalation"
EVALUATION_RESULT: Final = "gen_ai.evaluation.result"

# ---- metrics --------------------------------------------------------------------------------------------------------

STEP_DURATION: Final = "cascade.step.duration"
ATTEMPTS: Final = "cascade.attempts"
VALIDATION_RESULTS: Final = "cascade.validation.results"
VALIDATION_DURATION: Final = "cascade.validation.duration"
VALIDATION_TIME: Final = "cascade.validation.time"
COST: Final = "cascade.cost"
COST_UNKNOWN: Final = "cascade.cost.unknown"
TELEMETRY_LOST: Final = "cascade.telemetry.lost"
JOURNAL_LOST: Final = "cascade.journal.lost"

# ---- OpenTelemetry --------------------------------------------------------------------------------------------------

ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"

CONVERSATION_ID: Final = "gen_ai.conversation.id"
OPERATION_NAME: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
WORKFLOW_NAME: Final = "gen_ai.workflow.name"
EVALUATION_NAME: Final = "gen_ai.evaluation.name"
EVALUATION_SCORE: Final = "gen_ai.evaluation.score.value"
EVALUATION_LABEL: Final = "gen_ai.evaluation.score.label"
EVALUATION_EXPLANATION: Final = "gen_ai.evaluation.explanation"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
USAGE_CACHE_READ: Final = "gen_ai.usage.cache_read.input_tokens"
USAGE_CACHE_WRITE: Final = "gen_ai.usage.cache_creation.input_tokens"
SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"

# ---- OpenInference --------------------------------------------------------------------------------------------------

SPAN_KIND: Final = "openinference.span.kind"
KIND_CHAIN: Final = "CHAIN"
KIND_EVALUATOR: Final = "EVALUATOR"
