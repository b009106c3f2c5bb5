"""The public loader API: ``open_data``, ``build_loader``, ``build_eval_loader``."""

from pipelines.public.data import Data as Data
from pipelines.public.data import open_data as open_data
from pipelines.public.evaluation import EvalLoader as EvalLoader
from pipelines.public.evaluation import build_eval_loader as build_eval_loader
from pipelines.public.options import LoaderOptions as LoaderOptions
from pipelines.public.training import EpochLoader as EpochLoader
from pipelines.public.training import build_loader as build_loader
