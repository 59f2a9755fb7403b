"""The general way: families that nobody wrote code for, asked of their own processor."""
