"""`make bench`: measurements side by side, printed and never asserted."""

from tests.benchmarks import hit_path, policy_decision

if __name__ == "__main__":
    policy_decision.main()
    hit_path.main()
