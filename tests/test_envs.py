"""The environments: gymnasium's checker, seeds, forced deals, pictures, speed, and playing in the terminal."""

import itertools
import json
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image

import vlrl.bench
import vlrl.envs
from vlrl.bench.speed import games as game_speed
from vlrl.envs.__main__ import main
from vlrl.envs.cards import GAMES
from vlrl.envs.cards.deck import RANKS, SUITS
from vlrl.envs.environment import OPTIONS
from vlrl.envs.faces import TABLE, WHITE, face
from vlrl.envs.frames import hand_places

IDS = [played.env_id for played in GAMES.values()]


def episode(env, seed, policy_seed, n=40):
    """Every frame's bytes, reward and info of random play."""
    frame, info = env.reset(seed=seed)
    rng, seen = np.random.default_rng(policy_seed), [(frame.tobytes(), 0.0, str(info))]
    for _ in range(n):
        frame, reward, terminated, truncated, info = env.step(int(rng.integers(env.action_space.n)))
        seen.append((frame.tobytes(), reward, str(info)))
        if terminated or truncated:
            break
    return seen


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasiums_checker_passes_without_a_warning(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env_id, render_mode="rgb_array").unwrapped)


@pytest.mark.parametrize("env_id", IDS)
def test_equal_seeds_give_equal_bytes_whatever_happened_before(env_id):
    first, second = gymnasium.make(env_id), gymnasium.make(env_id)
    episode(second, 99, 5)
    np.random.seed(0)
    runs = [episode(first, 7, 1), episode(second, 7, 1)]
    assert runs[0] == runs[1]
    assert len({episode(first, seed, 1)[0][0] for seed in range(8)}) > 2


@pytest.mark.parametrize("env_id", IDS)
def test_rendering_is_the_observation_and_info_is_a_copy(env_id):
    env = gymnasium.make(env_id, render_mode="rgb_array")
    frame, info = env.reset(seed=3)
    assert (frame == env.render()).all()
    assert (frame.dtype, frame.shape) == (np.uint8, (300, 300, 3))
    frame[:] = 0
    before = str(info)
    for value in info.values():
        if isinstance(value, list):
            value.append("mine")
    again = env.unwrapped._info()
    assert str(again) == before
    assert env.render().any()
    assert env.spec.max_episode_steps == 300


def test_info_keeps_the_published_names():
    names = {
        "vlrl/NumberLine-v0": {"Target", "Current"},
        "vlrl/EZPoints-v0": {"Cards", "Numbers", "Formula"},
        "vlrl/Points24-v0": {"Cards", "Numbers", "Formula", "solvable"},
        "vlrl/Blackjack-v0": {"Dealer Card", "Player Card"},
    }
    for env_id, keys in names.items():
        _, info = gymnasium.make(env_id).reset(seed=0)
        assert set(info) == keys | {"legal_tokens", "step"}
    _, info = gymnasium.make("vlrl/Blackjack-v0").reset(seed=0, options={"dealer": ["A", 7], "player": [10, 2]})
    assert [card[:2] for card in info["Dealer Card"]] == [[1, "A"], [7, "7"]]
    _, info = gymnasium.make("vlrl/Points24-v0").reset(seed=0, options={"numbers": [1, 1, 1, 10]})
    assert [code[1] for code in info["Cards"]] == list("AAAT")
    assert info["solvable"] is False
    assert info["Formula"] == []
    assert info["legal_tokens"] == ["1", "10", *"+-*/()="]


def test_forced_deals_play_out_through_gymnasium():
    env = gymnasium.make("vlrl/Points24-v0")
    tokens = GAMES["points24"].tokens
    env.reset(seed=0, options={"numbers": [1, 1, 2, 2]})
    rewards = [env.step(tokens.index(token))[1] for token in "1 2 * 2 * 1 =".split()]  # noqa: SIM905
    assert rewards == [0] * 6 + [-1]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)
    published = gymnasium.make("vlrl/Points24-v0", exact=False)
    _, info = published.reset(seed=0, options={"numbers": [1, 1, 2, 2]})
    assert info["solvable"] is False
    assert [published.step(tokens.index(token))[1] for token in "1 2 * 2 * 1 =".split()][-1] == 10  # noqa: SIM905
    assert gymnasium.make("vlrl/Points24-v0", face_as_ten=False).action_space.n == 20
    _, info = gymnasium.make("vlrl/NumberLine-v0", max_position=9).reset(options={"start": 9, "target": 0})
    assert (info["Current"], info["Target"]) == (9, 0)


def test_wrong_options_are_refused():
    env = gymnasium.make("vlrl/Points24-v0").unwrapped
    with pytest.raises(ValueError, match="points24 cannot fix cards; it can fix numbers"):
        env.reset(options={"cards": [1, 2, 3, 4]})
    env.reset()
    with pytest.raises(gymnasium.error.InvalidAction):
        env.step(17)
    with pytest.raises(ValueError, match="layout='wide'"):
        vlrl.envs.CardEnv("points24", layout="wide")
    assert set(OPTIONS) == set(GAMES)


# ---- pictures


@pytest.mark.parametrize("size_px", [(67, 93), (135, 189), (70, 98)])
def test_all_faces_differ_and_their_ranks_can_be_read(size_px):
    faces = {suit + rank: face(suit + rank, *size_px) for suit in SUITS for rank in RANKS}
    assert len({pixels.tobytes() for pixels in faces.values()}) == 52
    for code, pixels in faces.items():
        assert pixels.shape == (size_px[1], size_px[0], 3)
        corner = pixels[2 : 24 * size_px[0] // 67, 2 : size_px[0] // 2].astype(int)
        rows = np.flatnonzero((corner.sum(axis=2) < 600).any(axis=1))
        assert rows[-1] - rows[0] + 1 >= 18 * size_px[0] // 67, code
        red, _, blue = pixels.reshape(-1, 3).astype(int).T
        assert (code[0] in "HD") == ((red - blue) > 100).any(), "hearts and diamonds alone are red"
        # The lower half is the upper one turned around, the middle apart.
        band = size_px[1] // 3
        turned = pixels[::-1, ::-1][:band].astype(int)
        assert np.abs(pixels[:band].astype(int) - turned).mean() < 3, code


def frame_of(env_id, options, tokens=(), **made):
    env = gymnasium.make(env_id, **made).unwrapped
    frame, _ = env.reset(seed=0, options=options)
    for token in tokens:
        frame, *_ = env.step(env.game.tokens.index(token))
    return frame


def lit(frame, y1, y2):
    """First and last column with something on the table between two rows; None if it is bare."""
    columns = np.flatnonzero((frame[y1:y2] != TABLE).any(axis=(0, 2)))
    return (int(columns[0]), int(columns[-1])) if len(columns) else None


def test_cards_and_formula_stand_where_they_should():
    frame = frame_of("vlrl/Points24-v0", {"numbers": [4, 6, 1, 1]}, ["4", "*"])
    assert tuple(frame[0, 0]) == TABLE
    assert lit(frame, 150, 151) == (5, 226 + 66)
    assert lit(frame, 0, 103) is None
    assert lit(frame, 196, 210) is None
    assert lit(frame, 240, 262)[0] in (10, 11)
    assert lit(frame, 262, 300) is None
    frame = frame_of("vlrl/EZPoints-v0", {"numbers": [2, 10]})
    assert lit(frame, 150, 151) == (5, 153 + 134)
    frame = frame_of("vlrl/NumberLine-v0", {"start": 1, "target": 5})
    assert tuple(frame[0, 0]) == WHITE
    assert frame[60:110].min() == 0
    assert frame[180:230].min() == 0


def test_long_formulas_are_wrapped_unless_the_published_layout_is_asked_for():
    tokens = ["4", "*"] + ["+"] * 18
    fixed = frame_of("vlrl/Points24-v0", {"numbers": [4, 6, 1, 1]}, tokens)
    compat = frame_of("vlrl/Points24-v0", {"numbers": [4, 6, 1, 1]}, tokens, layout="compat")
    assert lit(fixed, 264, 285) is not None
    assert lit(fixed, 240, 262)[1] < 296
    assert lit(compat, 264, 285) is None
    assert lit(compat, 240, 262)[1] > 295


def test_every_card_of_a_hand_shows_its_corner_unless_published_places_are_asked_for():
    for n in range(2, 12):
        places = hand_places([None] * n, "fixed")
        gaps = [b[0] - a[0] for a, b in itertools.pairwise(places)]
        assert places[-1][0] + 70 <= 300
        assert min(gaps) >= 22
    assert hand_places([None] * 5, "compat")[4] == (301, 150)
    forced = {"player": [2, 3], "draws": [2, 2, 2, 4]}
    frames = [frame_of("vlrl/Blackjack-v0", forced, ["hit"] * n) for n in range(5)]
    assert all((a != b).any() for a, b in itertools.pairwise(frames))
    hidden = [frame_of("vlrl/Blackjack-v0", forced, ["hit"] * n, layout="compat") for n in (2, 3)]
    assert (hidden[0] == hidden[1]).all()


def test_the_hole_card_does_not_show():
    frames = {frame_of("vlrl/Blackjack-v0", {"player": [2, 3], "dealer": [7, hole]}).tobytes() for hole in (2, 9)}
    assert len(frames) == 1


@pytest.mark.long
def test_stepping_with_pictures_is_fast(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(game_speed, "N_STEPS", 1000)
    assert vlrl.bench.main(["speed", "--what", "games", "--json", str(tmp_path / "speed.json")]) == 0
    rows = json.loads((tmp_path / "speed.json").read_text())
    assert [row["what"] for row in rows] == IDS
    assert all(row["per_second"] > 2000 for row in rows), capsys.readouterr().out


# ---- the terminal


def test_a_game_is_played_from_piped_lines(tmp_path):
    command = [sys.executable, "-m", "vlrl.envs", "points24", "--cards", "4", "6", "A", "1", "--frames", str(tmp_path / "f")]
    lines = "4 * six\nhint\n6 * 1 * 1\n=\n"
    root = Path(vlrl.envs.__file__).parents[2]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=root, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "'six' is not a move" in done.stdout
    assert "Right moves: 1 6 (" in done.stdout
    assert done.stdout.rstrip().endswith("Return +10: won.")
    frames = sorted((tmp_path / "f").iterdir())
    assert [frame.name for frame in frames] == [f"{n:02d}.png" for n in range(9)]
    assert Image.open(frames[0]).size == (300, 300)


@pytest.mark.parametrize("name", GAMES)
def test_every_game_ends_politely_when_the_lines_do(name, monkeypatch, capsys, tmp_path):
    empty = tmp_path / "empty"
    empty.write_text("")
    with empty.open() as lines:
        monkeypatch.setattr(sys, "stdin", lines)
        assert main([name, "--seed", "3"]) == 0
    assert "Stopped with a return of +0." in capsys.readouterr().out


def test_blackjack_in_the_terminal_hides_the_hole_card_until_the_end(monkeypatch, capsys, tmp_path):
    script = tmp_path / "moves"
    script.write_text("hint stand\n")
    with script.open() as lines:
        monkeypatch.setattr(sys, "stdin", lines)
        main(["blackjack", "--seed", "4"])
    before, _, after = capsys.readouterr().out.partition("The game is over.")
    assert " ?   Player:" in before
    assert "Dealer:" in after


@pytest.mark.parametrize("argv", [["blackjack", "--cards", "4"], ["points24", "--cards", "4"], ["poker"]])
def test_what_cannot_be_played_is_refused(argv, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 2
    assert "error:" in capsys.readouterr().err
