"""Descriptions of values, functions, trees and transforms, from which error texts are made.

The ground floor: `ad` and `core` both build on it, and it knows no particular transform.
"""
