"""A noise schedule, and what the network predicts, as diffusers publishes them."""

from ldm_edu.config import Prediction, Preset, ScheduleConfig
from ldm_edu.layouts.pair import Json
from ldm_edu.layouts.settings import refuse, refuse_unusual
from ldm_edu.prediction import SIGMA_DATA
from ldm_edu.weights.errors import CheckpointError

PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
EDM: dict[str, Prediction] = {"epsilon": "edm", "v_prediction": "edm_v"}  # the same words, with EDM preconditioning
_USUAL: Json = {"trained_betas": None, "use_flow_sigmas": False}


def read_schedule(config: Json, where: str) -> tuple[ScheduleConfig, Prediction]:
    """The forward process of ``scheduler/scheduler_config.json``, and what the network predicts.

    Raises
    ------
    CheckpointError
        for a field that is not known here.
    """
    refuse_unusual(config, _USUAL, where)
    name = str(config.get("_class_name"))
    if "Flow" in name:
        refuse(where, "_class_name", name)
    if name.startswith("EDM"):
        return _read_edm(config, where)
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
        rescale_betas_zero_snr=config.get("rescale_betas_zero_snr", False),
    )
    return schedule, PREDICTIONS[prediction]


def _read_edm(config: Json, where: str) -> tuple[ScheduleConfig, Prediction]:
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in EDM:
        refuse(where, "prediction_type", prediction)
    refuse_unusual(config, {"sigma_data": SIGMA_DATA[EDM[prediction]]}, where)
    schedule = ScheduleConfig(
        kind="edm",
        steps=config.get("num_train_timesteps", 1000),
        sigma_min=config.get("sigma_min", 0.002),
        sigma_max=config.get("sigma_max", 80.0),
        rho=config.get("rho", 7.0),
    )
    return schedule, EDM[prediction]


def write_schedule(preset: Preset) -> Json:
    """The ``scheduler/scheduler_config.json`` of a preset; raises CheckpointError where diffusers has none."""
    config = preset.schedule
    if config.kind == "edm" and preset.prediction in SIGMA_DATA:
        return _write_edm(config, preset.prediction)
    kinds = {ours: theirs for theirs, ours in SCHEDULES.items()}
    names = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    if config.kind not in kinds or preset.prediction not in names:
        raise CheckpointError(
            f"{preset.name} predicts {preset.prediction} on a {config.kind} schedule, which diffusers' pipeline of "
            "Stable Diffusion does not draw with; keep it in ldm-edu's own layout."
        )
    zero_snr = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if config.rescale_betas_zero_snr else {}
    return {
        "_class_name": "DDIMScheduler" if zero_snr else "PNDMScheduler",
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
        **zero_snr,
    }


def _write_edm(config: ScheduleConfig, prediction: Prediction) -> Json:
    return {
        "_class_name": "EDMDPMSolverMultistepScheduler",
        "_diffusers_version": "0.27.0",
        "num_train_timesteps": config.steps,
        "prediction_type": {ours: theirs for theirs, ours in EDM.items()}[prediction],
        "rho": config.rho,
        "sigma_data": SIGMA_DATA[prediction],
        "sigma_max": config.sigma_max,
        "sigma_min": config.sigma_min,
        "sigma_schedule": "karras",
    }
