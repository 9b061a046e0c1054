"""Results as people read them: one HTML page and one model card, both filled from the same `Facts`."""

from excise.report.card import base_licence, render_card
from excise.report.facts import BehaviourWords, Facts, gather
from excise.report.page import render_page

__all__ = ["BehaviourWords", "Facts", "base_licence", "gather", "render_card", "render_page"]
