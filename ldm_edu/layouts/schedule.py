"""A noise schedule, and what the network predicts, as diffusers publishes them."""

from ldm_edu.config import Prediction, Preset, ScheduleConfig
from ldm_edu.layouts.pair import Json
from ldm_edu.layouts.settings import refuse, refuse_unusual
from ldm_edu.weights.errors import CheckpointError

PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_USUAL: Json = {"rescale_betas_zero_snr": False, "trained_betas": None, "use_flow_sigmas": False}


def read_schedule(config: Json, where: str) -> tuple[ScheduleConfig, Prediction]:
    """The forward process of ``scheduler/scheduler_config.json``, and what the network predicts.

    Raises
    ------
    CheckpointError
        for a field that is not known here.
    """
    refuse_unusual(config, _USUAL, where)
    if "Flow" in str(config.get("_class_name")):
        refuse(where, "_class_name", config["_class_name"])
    kind, prediction = config.get("beta_schedule", "linear"), config.get("prediction_type", "epsilon")
    if kind not in SCHEDULES:
        refuse(where, "beta_schedule", kind)
    if prediction not in PREDICTIONS:
        refuse(where, "prediction_type", prediction)
    schedule = ScheduleConfig(
        kind=SCHEDULES[kind],  # type: ignore[arg-type]
        steps=config.get("num_train_timesteps", 1000),
        beta_start=config.get("beta_start", 0.0001),
        beta_end=config.get("beta_end", 0.02),
    )
    return schedule, PREDICTIONS[prediction]


def write_schedule(preset: Preset) -> Json:
    """The ``scheduler/scheduler_config.json`` of a preset; raises CheckpointError where diffusers has none."""
    config = preset.schedule
    kinds = {ours: theirs for theirs, ours in SCHEDULES.items()}
    names = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    if config.kind not in kinds or preset.prediction not in names:
        raise CheckpointError(
            f"{preset.name} predicts {preset.prediction} on a {config.kind} schedule, which diffusers' pipeline of "
            "Stable Diffusion does not draw with; keep it in ldm-edu's own layout."
        )
    return {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "beta_end": config.beta_end,
        "beta_schedule": kinds[config.kind],
        "beta_start": config.beta_start,
        "clip_sample": False,
        "num_train_timesteps": config.steps,
        "prediction_type": names[preset.prediction],
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
    }
