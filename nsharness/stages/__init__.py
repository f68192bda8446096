"""The stages: complete, small uses of nsharness, to be read as a tutorial.

``stage4``   an agent reads a wiki with a token that its sandbox does not have
"""
