"""Character classes that everything which cuts texts into words agrees on."""

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
"""Inside of a regular expression's brackets: Chinese, Japanese and Korean letters, which no space separates."""
