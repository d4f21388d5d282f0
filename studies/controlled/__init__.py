"""A controlled set of attributes: does the sparse mixture divide prompts and users as it should?"""
