"""The tab "Play" without a browser: goal, moves, hint, and logged episodes played again."""

import json

import pytest

from demos import episodes, play_tab
from demos.episodes import AFTER, BEFORE, NoEpisodes
from demos.games import Game, goal, named
from demos.runs import Runs
from vlrl.data.synthetic.deals import game_sample
from vlrl.envs.cards import GAMES
from vlrl.envs.cards.deals import deal_of
from vlrl.envs.cards.transcripts import read_transcript, replay
from vlrl.schema import Prediction
from vlrl.tasks.games import GAME_TASKS


@pytest.mark.parametrize("name", GAMES)
def test_the_hint_followed_to_the_end_plays_as_the_reference_player(name):
    game = Game(name, 5)
    assert game.goal.startswith("Goal: ")
    assert game.goal.count(".") >= 1
    while not game.episode.done:
        words = game.hint()
        token = words.removeprefix("The reference player would play ").partition(":")[0]
        assert token == game.rules.best(game.episode.env.state)
        game.play_token(token, "")
    assert game.hint() == ""
    if name in ("numberline", "ezpoints"):
        assert "won" in game.status


def test_goals_name_the_numbers():
    assert "from 4 to the target 0" in goal(GAMES["numberline"], _state("numberline", current=4, target=0))
    game = Game("points24", 17)
    assert "equals 24, with each of the numbers 10, 10, 2, 3 exactly once" in game.goal
    assert game.described.startswith(f"The cards {named(game.episode.env.state.cards)};")
    assert "of spades" in game.described
    unsolvable = next(
        seed for seed in range(500) if GAMES["points24"].solvable(Game("points24", seed).episode.env.state) is False
    )
    assert "No formula of these cards does" in Game("points24", unsolvable).goal


def _state(name, **values):
    import dataclasses

    return dataclasses.replace(Game(name, 1).episode.env.state, **values)


def test_moves_without_a_game_and_illegal_moves_are_a_line():
    assert "start a new deal" in play_tab.by_hand(None, "+", "")[3]
    game = Game("numberline", 1)
    for token in (None, "7", "<b>"):
        assert "choose a move first" in play_tab.by_hand(game, token, "")[3]
    assert game.episode.steps == [], "nothing was played"
    assert "reference player would play" in play_tab.hint(game)[3]


@pytest.fixture
def run(tmp_path):
    """A run as training leaves it: transcripts before and after, and a step's rows of two episodes of one deal."""
    folder = tmp_path / "cards"
    (folder / "completions").mkdir(parents=True)
    (folder / "config.yaml").write_text("task: numberline\n")
    far = next(
        i
        for i in range(99)
        if len(read_transcript(GAME_TASKS["numberline"].oracle(game_sample("numberline", 0, "heldout", i)))) > 2
    )
    samples = [game_sample(name, 0, "heldout", i) for i, name in ((far, "numberline"), (1, "points24"), (2, "blackjack"))]
    right = [Prediction(one.id, GAME_TASKS[one.task].oracle(one), 1, False) for one in samples]
    for side in ("before", "after"):
        lines = [json.dumps({"id": one.id, "completion": one.completion}) for one in right]
        (folder / f"predictions_{side}.jsonl").write_text("\n".join([*lines, '{"id": "half a li']))
    truth = [{"id": one.id, "ground_truth": f"env {one.answer['env']}, seed {one.answer['seed']}"} for one in samples]
    truth += [{"id": "own", "ground_truth": "env vlrl/NumberLine-v0, seed 7"}]
    (folder / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in truth))
    replies = [turn.reply for turn in read_transcript(right[0].completion)]
    rows = [
        {"id": f"{samples[0].id.replace('heldout', 'train')}/{t}", "completion": reply, "truncated": False}
        for _ in range(2)
        for t, reply in enumerate([*replies, "gibberish"][:2])
    ]
    (folder / "completions" / "step_000003.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "completions" / "step_000010.jsonl").write_text('{"id": "a photo", "completion": "x"}\n')
    return folder


def test_held_out_episodes_are_played_again_as_they_were(run):
    assert episodes.logs(run) == [AFTER, BEFORE, "step 10", "step 3"]
    found = episodes.episodes(run, AFTER)
    assert [one.rules.name for one in found] == ["numberline", "points24", "blackjack"]
    for one in found:
        sample = game_sample(one.rules.name, 0, "heldout", int(one.id.rpartition("-")[2]))
        deal = deal_of(sample)
        assert one.played() == replay(deal.game, deal.seed, one.turns)
        last = episodes.moment(one, one.played(), 10**6)
        assert "The episode ends with a return of" in last.status
        assert last.image.size[0] > 50
    assert found[0].played()[-1].reward > 0, "the reference player reaches the target"


def test_a_deal_of_a_data_file_is_known_by_what_the_run_says_of_it(run):
    lines = (run / "predictions_after.jsonl").read_text().splitlines()
    own = {**json.loads(lines[0]), "id": "own"}
    (run / "predictions_after.jsonl").write_text(json.dumps(own) + "\n" + json.dumps({**own, "id": "unknown"}) + "\n")
    (found,) = episodes.episodes(run, AFTER)
    assert (found.id, found.seed) == ("own", 7)


def test_a_step_s_rows_are_put_together_to_episodes(run):
    found = episodes.episodes(run, "step 3")
    assert [(len(one.turns), one.number) for one in found] == [(2, 0), (2, 1)]
    for which in ("step 10", "step 99", "", "step ../x", "held_out.jsonl"):
        with pytest.raises(NoEpisodes, match="no episode of a card game whose deal is known"):
            episodes.episodes(run, which)


def test_the_page_walks_through_an_episode_and_refuses_other_folders(run):
    shelf = Runs(run.parent)
    image, words, at = play_tab.replayed(shelf, "cards", AFTER, 0, 2)
    assert at == 2
    assert "Step 2 of" in words
    assert "numberline-heldout-0-" in words
    assert "alt='What the player saw. A target number" in image
    assert play_tab.replayed(shelf, "cards", AFTER, 99, 10**9)[2] == len(episodes.episodes(run, AFTER)[2].played())
    for name in ("../cards", "/etc", "none"):
        assert "there is no such run" in play_tab.replayed(shelf, name, AFTER, 0, 1)[1]
    assert "Choose a run" in play_tab.replayed(shelf, None, None, 0, 1)[1]


def test_links_out_of_a_run_are_not_replayed(run, tmp_path):
    secret = tmp_path / "secret.jsonl"
    (run / "predictions_after.jsonl").rename(secret)
    (run / "predictions_after.jsonl").symlink_to(secret)
    assert AFTER not in episodes.logs(run)
    with pytest.raises(NoEpisodes):
        episodes.episodes(run, AFTER)


@pytest.mark.parametrize(
    "identity", ["numberline-train-0-99999999999999999", "chess-train-0-1", "points24-../x-0-1", "points24-coldstart-0-1"]
)
def test_names_that_are_no_deal_are_passed_over(run, identity):
    row = {"id": f"{identity}/0", "completion": "{}"}
    (run / "completions" / "step_000004.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(NoEpisodes):
        episodes.episodes(run, "step 4")
