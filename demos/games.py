"""A card game being played on the page: its image, its moves, and the corrector's verdict on each thought."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image

from demos.scoring import own_file
from vlrl.envs import CardEnv
from vlrl.envs.cards import GAMES, thought_fields, write_reply
from vlrl.envs.cards.deals import episode_sample, state_sample
from vlrl.gtr import OracleCorrector
from vlrl.gtr.episodes import Episode
from vlrl.schema import Sample


@dataclass
class Game:
    """One visitor's game."""

    name: str
    seed: int
    episode: Episode = field(init=False)
    lines: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.episode = Episode(CardEnv(self.name), self.seed)

    @property
    def image(self) -> Image.Image:
        return own_file(self.episode.observation)

    @property
    def tokens(self) -> list[str]:
        """The moves that can be played, in their order."""
        return [] if self.episode.done else list(self.episode.env.game.legal(self.episode.env.state))

    def state_sample(self) -> Sample:
        """The state as a sample, for a model to answer."""
        sample = episode_sample(f"{self.name}-{self.seed}", self.name, GAMES[self.name], self.seed)
        moves = [step.token for step in self.episode.steps if step.token is not None]
        return state_sample(sample, moves, good=False)

    def play_token(self, token: str, thought: str) -> None:
        """Plays by hand; an empty thought states what the image shows and nothing else."""
        fields = {**self.episode.env.game.shown(self.episode.env.state), "thoughts": thought}
        self.play_reply(write_reply(fields, token), judged=bool(thought.strip()))

    def play_reply(self, reply: str, judged: bool = True, ended: bool = True) -> None:
        """Plays what a policy (or a person) wrote, and has the corrector judge the thought."""
        verdict = OracleCorrector().correct(self.episode.request(reply, ended)) if judged else None
        step = self.episode.step(reply, ended)
        fields = thought_fields(reply, self.episode.env.game, ended)
        thought = "" if fields is None else str(fields.get("thoughts", ""))
        played = str(step.token) if step.action is not None else f"{step.token} (random: the action could not be read)"
        judgement = "" if verdict is None else "right" if verdict.status == "ok" else verdict.why or verdict.status
        self.lines.append([str(step.t + 1), thought if fields is not None else reply, played, f"{step.reward:+g}", judgement])

    @property
    def status(self) -> str:
        total = self.episode.total
        if not self.episode.done:
            return f"Return so far {total:+g}."
        return f"Over after {len(self.episode.steps)} steps: {'won' if total > 0 else 'not won'}, return {total:+g}."
