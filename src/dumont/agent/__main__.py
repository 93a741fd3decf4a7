"""Start the agent: `python3 -m dumont.agent`."""

from dumont.agent.main import main

if __name__ == "__main__":
    main()
