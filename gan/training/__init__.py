"""What a step is: objectives, the state a checkpoint holds, the step itself, alarms about its health."""
