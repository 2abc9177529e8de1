"""How flat is the optimum over four decades of a weight?"""
