"""Every task there is. A new one is a folder beside these and a line here."""

from types import MappingProxyType

from tasks.glue.task import GlueTask
from tasks.pretraining.task import PretrainingTask
from tasks.squad.task import SquadTask

TASKS = MappingProxyType({task.name: task for task in (PretrainingTask, SquadTask, GlueTask)})
