"""`python -m allegro_sim input.toml`: the same as the command `allegro-sim`."""

from allegro_sim.cli import main

if __name__ == "__main__":
    main()
