"""What torch.save writes, read without torch and without running anything in it: values, and where tensors lie.

What is not a tensor is passed over and named: an optimizer's numbers, a Namespace of arguments, objects of any class.
"""
