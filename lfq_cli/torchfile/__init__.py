"""Files of torch.save, read without torch and without running anything in them: values, and where tensors are.

Everything that is not a tensor is skipped and named: an optimizer's numbers, a Namespace of arguments, other objects.
"""
