"""Does the delta of a Huber loss matter once its scale is taken out?"""
