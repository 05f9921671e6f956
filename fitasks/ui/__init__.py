"""What people see: doit's reporter and the tasks that only print."""
