"""Tests of bilevel, in the folder of what they test."""
