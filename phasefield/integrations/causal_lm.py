"""The causal models as transformers knows models; importing this file tells its Auto classes of them."""

import dataclasses
import json
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..models import MODELS
from ..training.checkpoint import MODEL_TYPE, check_code

# What transformers calls the state between calls; the older name until 5.23.
_CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class PhasefieldForCausalLMConfig(PretrainedConfig):
    """Which model, and its config; a checkpoint of ``phasefield train`` is one.

    Args:
        model: name in :data:`phasefield.models.MODELS` of a causal model that learns by gradients.
        model_config: the fields of its config, ``vocab_size`` among them.
        others: as every config of transformers takes them.
    """

    model_type = MODEL_TYPE

    def __init__(
        self, model: str = "landauer", model_config: dict[str, Any] | None = None, **others: Any
    ) -> None:
        self.model = model
        self.model_config = dict(model_config or {})
        self.vocab_size = self.model_config.get("vocab_size")
        others.pop("vocab_size", None)
        super().__init__(**others)

    def to_json_string(self, use_diff: bool = True) -> str:
        """As transformers writes it, but in the order given: a phase-field model applies its parts in it."""
        content = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(content, indent=2) + "\n"


class TextState:
    """What a model has read, as ``past_key_values``.

    Attributes:
        state: the model's own.
        length: tokens read.
    """

    is_compileable = False

    def __init__(self, model: nn.Module, state: Any, length: int) -> None:
        self._model = model
        self.state = state
        self.length = length

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens read."""
        return self.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Go on with these texts of the batch, in this order."""
        one, two = self._model.init_state(1), self._model.init_state(2)
        self.state = _rows(self.state, one, two, beam_idx)


class PhasefieldForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal model of this package, one that learns by gradients, with transformers' interface::

        model = PhasefieldForCausalLM.wrap(NanoGPT(NanoGPTConfig(65)))
        model.save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder)   # or a checkpoint of phasefield train
        model.generate(ids, max_new_tokens=100)

    No code comes with a checkpoint: it names a model of this package. A phase-field config that names plugins
    is refused unless they are loaded or named by ``PHASEFIELD_PLUGINS``, as everywhere.

    ``model.model`` is the model itself, with the weights that it started with or loaded. Its state stands
    where transformers keeps keys and values, and does not grow. Batches for ``generate`` need texts of the
    same length: a recurrent state cannot leave out what pads a text on its left. What pads on the right does
    no harm to the logits before it, in training for example.

    Raises:
        ValueError: a model that cannot be wrapped, or a config that does not fit it.
        UserError: a config that names code which the user has not named.
    """

    config_class = PhasefieldForCausalLMConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _is_stateful = True

    def __init__(self, config: PhasefieldForCausalLMConfig, model: nn.Module | None = None) -> None:
        super().__init__(config)
        self.loss_type = "ForCausalLM"
        # from_pretrained builds models without numbers, but what a model computes at its start is in no file.
        with torch.device("cpu"):
            self.model = _build(config) if model is None else model
        kept = self.state_dict().keys()
        self._computed = {
            module: {
                name: buffer.clone()
                for name, buffer in module.named_buffers(recurse=False)
                if f"{path}.{name}" not in kept
            }
            for path, module in self.named_modules()
        }
        self.post_init()
        self.train(self.model.training)

    @classmethod
    def wrap(cls, model: nn.Module) -> "PhasefieldForCausalLM":
        """Give a causal model transformers' interface; the weights are shared, not copied.

        Raises:
            ValueError: the model is none that can be wrapped.
        """
        names = [name for name in _NAMES if MODELS[name].model_class is type(model)]
        if not names:
            raise ValueError(f"model is a {type(model).__name__}; {_ALLOWED}.")
        return cls(PhasefieldForCausalLMConfig(names[0], dataclasses.asdict(model.config)), model)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: TextState | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        cache: TextState | None = None,
        **others: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits ``[B, T, vocab_size]`` of what follows each token.

        Args:
            input_ids: int64 ``[B, T]``.
            attention_mask: ``[B, T]``, zero for what pads a text on its right.
            past_key_values: what was read before; decoding without gradients overwrites it.
            labels: ``[B, T]``, shifted here as everywhere in transformers; −100 does not count. The loss is
                the cross-entropy alone: ``model.model.loss`` has the model's own terms.
            use_cache: whether to return the state; yes if left out, outside training.
            return_dict: a tuple if False.
            cache: past_key_values, as transformers calls it from 5.24 on.
            others: what the loss takes, such as ``num_items_in_batch``.

        Raises:
            ValueError: a text that is padded on its left.
        """
        if attention_mask is not None and (attention_mask.diff(dim=-1) > 0).any():
            raise ValueError(
                "attention_mask leaves out tokens on the left of others; a state that has read them cannot: "
                "pad on the right, or pass texts of the same length."
            )
        before = past_key_values if cache is None else cache
        if before is not None and input_ids.shape[1] == 1 and not torch.is_grad_enabled():
            logits, state = self.model.step(input_ids[:, 0], before.state)
            logits = logits.unsqueeze(1)
        else:
            logits, state = self.model(input_ids, None if before is None else before.state)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **others)
        read = None
        if use_cache or (use_cache is None and not self.training):
            length = input_ids.shape[1] + (0 if before is None else before.length)
            read = TextState(self.model, state, length)
        output = CausalLMOutputWithPast(loss=loss, logits=logits, **{_CACHE: read})
        return output.to_tuple() if return_dict is False else output

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: TextState | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        cache: TextState | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """What :meth:`forward` gets in ``generate``: the tokens that the state has not read.

        Raises:
            ValueError: texts of different lengths.
        """
        before = past_key_values if cache is None else cache
        if before is None and attention_mask is not None and not attention_mask.all():
            raise ValueError(
                "attention_mask has zeros; generate needs texts of the same length, because a state cannot "
                "leave out what pads them. Continue texts of different lengths one by one."
            )
        read = 0 if before is None else before.length
        return {"input_ids": input_ids[:, read:], _CACHE: before, "use_cache": use_cache}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # transformers asks this before it makes a cache of keys and values: the model brings its own.
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Models initialise themselves; but from_pretrained empties what is in no file.
        for name, computed in self._computed[module].items():
            getattr(module, name).copy_(computed)


# transformers asks a model's parameters for its device: one without any cannot be wrapped.
_NAMES = [name for name, entry in MODELS.items() if entry.causal and not entry.local]
_ALLOWED = f"allowed are {', '.join(_NAMES)}"


def _build(config: PhasefieldForCausalLMConfig) -> nn.Module:
    if config.model not in _NAMES:
        raise ValueError(f"model is {config.model!r}; {_ALLOWED}.")
    entry = MODELS[config.model]
    check_code(config.name_or_path or "config", config.model_config)
    try:
        return entry.model_class(entry.config_class(**config.model_config))
    except TypeError as error:
        raise ValueError(f"model_config does not fit {config.model}: {error}") from error


def _rows(state: Any, one: Any, two: Any, rows: Tensor) -> Any:
    """Rows of a state's batch, which is the axis along which the states of one and two texts differ."""
    if isinstance(state, Tensor):
        for axis, (single, double) in enumerate(zip(one.shape, two.shape, strict=True)):
            if single != double:
                return state.index_select(axis, rows.to(state.device))
        return state
    if isinstance(state, list | tuple):
        parts = [_rows(*parts, rows) for parts in zip(state, one, two, strict=True)]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    if dataclasses.is_dataclass(state):
        changed = {
            field.name: _rows(*(getattr(part, field.name) for part in (state, one, two)), rows)
            for field in dataclasses.fields(state)
        }
        return dataclasses.replace(state, **changed)
    return state


AutoConfig.register(MODEL_TYPE, PhasefieldForCausalLMConfig)
AutoModelForCausalLM.register(PhasefieldForCausalLMConfig, PhasefieldForCausalLM)
