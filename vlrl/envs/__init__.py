"""The card games with images, as `gymnasium` environments. Importing this registers them:

    import gymnasium, vlrl.envs
    env = gymnasium.make("vlrl/Points24-v0")
    frame, info = env.reset(seed=17)

`python -m vlrl.envs points24` plays one in the terminal. Not here: rules (`vlrl.envs.cards`).
"""

import gymnasium

from vlrl.envs.cards import GAMES
from vlrl.envs.environment import CardEnv
from vlrl.envs.frames import draw_frame

__all__ = ["CardEnv", "draw_frame"]

MAX_EPISODE_STEPS = 300

for _name, _game in GAMES.items():
    if _game.env_id not in gymnasium.registry:
        gymnasium.register(
            _game.env_id, "vlrl.envs.environment:CardEnv", max_episode_steps=MAX_EPISODE_STEPS, kwargs={"name": _name}
        )
