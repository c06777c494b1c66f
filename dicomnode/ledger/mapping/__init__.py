"""Columns and values, one file for each table: what a row becomes, and what a new row holds.

A column is named in ``schema`` with its type, here, and in the statements that ask about it. A function that reads a
row says which labels it expects beside the columns of its table. Nothing here runs a statement.
"""
